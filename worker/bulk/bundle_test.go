package bulk_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/bulk"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// runnerEnv makes the test binary a process that runs jobs over the Redis that it names.
const runnerEnv = "KOOWORKER_TEST_BULK_RUNNER"

func TestMain(m *testing.M) {
	if addr := os.Getenv(runnerEnv); addr != "" {
		rdb := redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
		r, err := bulk.New(bulk.Config{Redis: rdb, Poll: 20 * time.Millisecond, LeaseTTL: time.Second})
		if err != nil {
			os.Exit(1)
		}
		r.Run(context.Background())
		return
	}
	goleak.VerifyTestMain(m)
}

const far = 10 * 365 * 24 * time.Hour

// failure is an error of the handler's. Its delay is when asynq retries.
type failure struct {
	text  string
	delay time.Duration
}

func (f failure) Error() string { return f.text }

// bundle is a Redis with dead letters, and a worker that counts replays.
type bundle struct {
	t         *testing.T
	redis     *redistest.Server
	idle      *redistest.Server // beside it, for measurements; else nil
	rdb       *redis.Client
	letters   *deadletter.Store
	jobs      *bulk.Store
	inspector *asynq.Inspector

	mu    sync.Mutex
	tried map[string]int // replays, by the letter
}

func setup(t *testing.T) *bundle {
	t.Helper()
	server := redistest.Start(t)
	rdb := server.Client()
	return &bundle{
		t: t, redis: server, rdb: rdb, letters: deadletter.NewStore(rdb), jobs: bulk.NewStore(rdb),
		inspector: asynq.NewInspectorFromRedisClient(rdb), tried: map[string]int{},
	}
}

// work runs a worker that parks letters that arrive, as the real one does, counts those that
// are replayed, and calls a function for these.
func (b *bundle) work(replay func(deadletter.Letter) error) {
	b.t.Helper()
	srv := asynq.NewServerFromRedisClient(b.rdb, asynq.Config{
		Concurrency: 16, Queues: map[string]int{tasks.QueueDeadLetter: 1}, TaskCheckInterval: 10 * time.Millisecond,
		ShutdownTimeout: time.Second, LogLevel: asynq.FatalLevel,
		RetryDelayFunc: func(_ int, err error, _ *asynq.Task) time.Duration {
			if f := (failure{}); errors.As(err, &f) {
				return f.delay
			}
			return time.Second
		},
	})
	err := srv.Start(asynq.HandlerFunc(func(ctx context.Context, task *asynq.Task) error {
		id, _ := asynq.GetTaskID(ctx)
		letter := deadletter.Decode(id, task.Type(), task.Payload())
		if n, _ := asynq.GetRetryCount(ctx); n == 0 {
			return failure{letter.Error, far}
		}
		b.mu.Lock()
		b.tried[id]++
		b.mu.Unlock()
		err := replay(letter)
		if err == nil {
			return b.letters.Unindex(ctx, letter)
		}
		reason, _, _ := strings.Cut(err.Error(), ":")
		if letter.DeadAt = time.Now(); tasks.Reason(reason) != tasks.Crashed { // a crash is about the worker
			letter.Reason = tasks.Reason(reason)
		}
		if err := b.letters.IndexDeath(ctx, letter); err != nil {
			return err
		}
		return failure{err.Error(), far}
	}))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(srv.Shutdown)
}

// replays returns how often each letter was replayed.
func (b *bundle) replays() map[string]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.tried)
}

func (b *bundle) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func letter(t *testing.T, user, device string, in tasks.Intent) deadletter.Letter {
	t.Helper()
	task := tasks.DeviceUnbind{UserID: user, DeviceID: device}
	payload, err := tasks.Encode(task, in)
	if err != nil {
		t.Fatal(err)
	}
	return deadletter.Letter{
		ID: tasks.Identity(task), Kind: task.Kind(), Queue: task.Queue(), Payload: payload, UserID: user, Target: device, Batch: in.BatchRef.Batch,
		Reason: tasks.Forbidden, Error: "forbidden: no permission", Attempts: 1, DeadAt: time.Now(),
	}
}

// park parks n letters, of which every third died as upstream and the others as forbidden.
func (b *bundle) park(n int) {
	b.t.Helper()
	var wg sync.WaitGroup
	const writers = 8
	for w := range writers {
		wg.Go(func() {
			for i := w; i < n; i += writers {
				l := letter(b.t, fmt.Sprint("u", i%7), fmt.Sprint(i), tasks.Intent{})
				if i%3 == 0 {
					l.Reason, l.Error = tasks.Upstream, "upstream: HTTP 503"
				}
				if err := b.letters.Park(b.t.Context(), l); err != nil {
					b.t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.awaitParked(n)
}

// awaitParked waits until n letters are parked and no other is in the queue.
func (b *bundle) awaitParked(n int) {
	b.t.Helper()
	redistest.Eventually(b.t, time.Minute, fmt.Sprintf("%d letters parked", n), func() bool {
		info, err := b.inspector.GetQueueInfo(tasks.QueueDeadLetter)
		return err == nil && info.Retry == n && info.Pending+info.Active == 0
	})
}

// order orders a job by "ann".
func (b *bundle) order(o bulk.Order) string {
	b.t.Helper()
	o.By, o.Reason = "ann", "the permission is back"
	id, err := b.jobs.Order(b.t.Context(), o)
	b.must(err)
	return id
}

func (b *bundle) get(id string) bulk.Job {
	b.t.Helper()
	j, err := b.jobs.Get(b.t.Context(), id)
	b.must(err)
	return j
}

// awaitEnd waits until a job has ended.
func (b *bundle) awaitEnd(id string) bulk.Job {
	b.t.Helper()
	redistest.Eventually(b.t, time.Minute, "the job has ended", func() bool { return !b.get(id).State.IsOpen() })
	return b.get(id)
}

// run runs a Runner in this process. stop ends it.
func (b *bundle) run() (stop func()) {
	b.t.Helper()
	r, err := bulk.New(bulk.Config{Redis: b.rdb, Poll: 10 * time.Millisecond, LeaseTTL: time.Second})
	b.must(err)
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Run(ctx)
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	b.t.Cleanup(stop)
	return stop
}

// process is another process that runs jobs.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
}

func (b *bundle) startProcess() process {
	b.t.Helper()
	self, err := os.Executable()
	b.must(err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), runnerEnv+"="+b.redis.Addr())
	cmd.Stderr = os.Stderr
	b.must(cmd.Start())
	p := process{b.t, cmd}
	b.t.Cleanup(p.kill)
	return p
}

// kill ends the process with SIGKILL, as a crash would.
func (p process) kill() {
	if p.cmd.ProcessState != nil {
		return
	}
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

func (p process) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
}
