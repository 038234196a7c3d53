package recovery_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/recovery"
)

// childEnv holds the address of a Redis. If it is set, the test binary is a worker
// of that Redis.
const childEnv = "RECOVERY_TEST_WORKER"

func TestMain(m *testing.M) {
	if addr := os.Getenv(childEnv); addr != "" {
		child(addr)
		return
	}
	redis.SetLogger(silence{}) // the outages are on purpose
	goleak.VerifyTestMain(m)
}

type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

const (
	unbind = tasks.QueueUnbind
	dead   = tasks.QueueDeadLetter
)

// bundle is a Redis, a repairer's configuration, and what became of the tasks.
type bundle struct {
	t         *testing.T
	redis     *redistest.Server
	rdb       *redis.Client
	client    *asynq.Client
	inspector *asynq.Inspector
	parker    *parker
	receipts  *receipts
	counts    *counts
	cfg       recovery.Config
}

func setup(t *testing.T, args ...string) *bundle {
	t.Helper()
	server := redistest.Start(t, args...)
	rdb := server.Client()
	b := &bundle{
		t: t, redis: server, rdb: rdb, client: asynq.NewClientFromRedisClient(rdb), inspector: asynq.NewInspectorFromRedisClient(rdb),
		parker: &parker{letters: map[string]deadletter.Letter{}}, receipts: &receipts{}, counts: &counts{n: map[recovery.Repair]int{}},
	}
	b.cfg = recovery.Config{
		Redis: server.Client(), Parker: b.parker, Receipts: b.receipts, OnRepair: b.counts.repaired, MinUptime: 1,
		Queues: []string{dead, tasks.QueueRelease, unbind}, // the tests count on three
	}
	return b
}

func (b *bundle) repairer() *recovery.Repairer {
	b.t.Helper()
	r, err := recovery.New(b.cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// passes runs n passes. The first one does not reap: Redis has only just answered.
func (b *bundle) passes(n int) {
	b.t.Helper()
	r := b.repairer()
	defer r.ReleaseLock(b.t.Context())
	b.passesOf(r, n)
}

func (b *bundle) passesOf(r *recovery.Repairer, n int) {
	b.t.Helper()
	for range n {
		if err := r.Pass(b.t.Context()); err != nil {
			b.t.Fatal(err)
		}
	}
}

// run runs a repairer until stop is called, at the latest when the test ends.
func (b *bundle) run() (stop func()) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done, r := make(chan struct{}), b.repairer()
	go func() {
		defer close(done)
		_ = r.Run(ctx)
	}()
	stop = func() { cancel(); <-done }
	b.t.Cleanup(stop)
	return stop
}

// work runs a real asynq server with a handler.
func (b *bundle) work(rdb redis.UniversalClient, h asynq.HandlerFunc) {
	b.t.Helper()
	srv := asynq.NewServerFromRedisClient(rdb, serverConfig())
	if err := srv.Start(h); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(srv.Shutdown)
}

func serverConfig() asynq.Config {
	return asynq.Config{
		Concurrency: 128, Queues: tasks.QueueWeights(), TaskCheckInterval: 20 * time.Millisecond, DelayedTaskCheckInterval: time.Second,
		ShutdownTimeout: time.Second, LogLevel: asynq.FatalLevel,
		IsFailure: func(error) bool { return false },
	}
}

func (b *bundle) enqueue(queue, id string) {
	b.t.Helper()
	_, err := b.client.EnqueueContext(b.t.Context(), asynq.NewTaskWithHeaders("device:unbind", []byte("payload of "+id), map[string]string{"h": id}),
		asynq.TaskID(id), asynq.Queue(queue), asynq.MaxRetry(tasks.MaxRetry), asynq.Timeout(tasks.Timeout))
	if err != nil {
		b.t.Fatal(err)
	}
}

func key(queue, suffix string) string { return "asynq:{" + queue + "}:" + suffix }

// take does by hand what asynq's dequeue does, with a lease of our choosing.
func (b *bundle) take(queue, id string, leaseEnds time.Time) {
	b.t.Helper()
	ctx := b.t.Context()
	b.must(b.rdb.LRem(ctx, key(queue, "pending"), 0, id).Err())
	b.must(b.rdb.ZRem(ctx, key(queue, "retry"), id).Err())
	b.must(b.rdb.LPush(ctx, key(queue, "active"), id).Err())
	b.must(b.rdb.HSet(ctx, key(queue, "t:"+id), "state", "active").Err())
	b.must(b.rdb.HDel(ctx, key(queue, "t:"+id), "pending_since").Err())
	b.must(b.rdb.ZAdd(ctx, key(queue, "lease"), redis.Z{Score: float64(leaseEnds.Unix()), Member: id}).Err())
}

const crashesAlone = "kooworker_crashes_alone"

// callAlone says that a process calls a suspect.
func (b *bundle) callAlone(queue, id, process string) {
	b.t.Helper()
	b.must(b.rdb.HSet(b.t.Context(), key(queue, "t:"+id), "kooworker_alone", process).Err())
}

// leaveHeartbeat writes what a dead server leaves behind: its last heartbeat.
func (b *bundle) leaveHeartbeat(name string, lastBeat time.Time) {
	b.t.Helper()
	b.must(b.rdb.ZAdd(b.t.Context(), "asynq:servers", redis.Z{Score: float64(lastBeat.Add(10 * time.Second).Unix()), Member: "asynq:servers:{" + name + "}"}).Err())
}

func (b *bundle) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// where names the sets that hold an ID, and "hash" if there is one. A list that
// holds the ID twice is named twice.
func (b *bundle) where(queue, id string) []string {
	b.t.Helper()
	ctx, out := b.t.Context(), []string{}
	lists, sets := []string{"active", "pending"}, []string{"lease", "scheduled", "retry", "archived", "completed"}
	found, err := b.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, list := range lists {
			p.LPosCount(ctx, key(queue, list), id, 0, redis.LPosArgs{})
		}
		for _, set := range sets {
			p.ZScore(ctx, key(queue, set), id)
		}
		p.Exists(ctx, key(queue, "t:"+id))
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		b.t.Fatal(err)
	}
	for i, name := range append(append(lists, sets...), "hash") {
		switch cmd := found[i].(type) {
		case *redis.IntSliceCmd:
			for range cmd.Val() {
				out = append(out, name)
			}
		case *redis.FloatCmd:
			if cmd.Err() == nil {
				out = append(out, name)
			}
		case *redis.IntCmd:
			if cmd.Val() == 1 {
				out = append(out, name)
			}
		}
	}
	return out
}

func (b *bundle) wantAt(queue, id string, want ...string) {
	b.t.Helper()
	if got := b.where(queue, id); !slices.Equal(got, want) {
		b.t.Errorf("%s is in %v; want %v", id, got, want)
	}
}

// field reads a field of an unbind's hash.
func (b *bundle) field(id, name string) string {
	b.t.Helper()
	v, err := b.rdb.HGet(b.t.Context(), key(unbind, "t:"+id), name).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		b.t.Fatal(err)
	}
	return v
}

// parker is a Parker that keeps everything in memory.
type parker struct {
	mu      sync.Mutex
	fail    error
	refuses string // the letters whose ID begins so, if it is set
	after   func() // runs once the letter is stored
	letters map[string]deadletter.Letter
}

var _ recovery.Parker = (*parker)(nil)

func (p *parker) Park(_ context.Context, l deadletter.Letter) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fail != nil {
		return p.fail
	}
	if p.refuses != "" && strings.HasPrefix(l.ID, p.refuses) {
		return errors.New("refused")
	}
	p.letters[l.ID] = l
	if p.after != nil {
		p.after()
	}
	return nil
}

func (p *parker) refuse(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail = err
}

func (p *parker) letter(id string) (deadletter.Letter, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l, ok := p.letters[id]
	return l, ok
}

func (p *parker) ids() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.letters))
}

// receipts keeps the receipts of one task.
type receipts struct {
	fail error
	last tasks.Receipt
}

func (r *receipts) Record(_ context.Context, receipt tasks.Receipt) error {
	if r.fail == nil {
		r.last = receipt
	}
	return r.fail
}

// counts counts repairs.
type counts struct {
	mu sync.Mutex
	n  map[recovery.Repair]int
}

func (c *counts) repaired(_ string, repair recovery.Repair, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n[repair] += n
}

func (c *counts) of(repair recovery.Repair) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[repair]
}

// want compares the counts of all repairs but Registered.
func (b *bundle) want(want map[recovery.Repair]int) {
	b.t.Helper()
	b.counts.mu.Lock()
	defer b.counts.mu.Unlock()
	got := maps.Clone(b.counts.n)
	delete(got, recovery.Registered)
	if !maps.Equal(got, want) {
		b.t.Errorf("counted %v; want %v", got, want)
	}
}

func ids(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("task-%05d", i)
	}
	return out
}

func ago(d time.Duration) time.Time { return time.Now().Add(-d) }
