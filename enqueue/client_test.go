package enqueue_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type bundle struct {
	client    *enqueue.Client
	inspector *asynq.Inspector
	redis     *redistest.Server
	rdb       *redis.Client
}

func setup(t *testing.T) *bundle {
	t.Helper()
	server := redistest.Start(t)
	rdb := server.Client()
	client, err := enqueue.New(enqueue.Config{Redis: rdb})
	if err != nil {
		t.Fatal(err)
	}
	return &bundle{client: client, inspector: asynq.NewInspectorFromRedisClient(rdb), redis: server, rdb: rdb}
}

func (b *bundle) info(t *testing.T, res enqueue.Result) *asynq.TaskInfo {
	t.Helper()
	info, err := b.inspector.GetTaskInfo(res.Queue, res.ID)
	if err != nil {
		t.Fatalf("task %s: %v", res.ID, err)
	}
	return info
}

var (
	unbind  = tasks.DeviceUnbind{UserID: "u-1", DeviceID: "1775406005920779393"}
	release = tasks.LockRelease{UserID: "u-1", LockID: "78e41c7e-db02-4d55-85b3-8153e4fefd2e@102"}
	leaver  = tasks.UserOffboard{UserID: "u-1"}
)

func TestEnqueue_StoredTask(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, tc := range []struct {
		enqueue func() (enqueue.Result, error)
		id      string
		queue   string
		task    tasks.Task
	}{
		{func() (enqueue.Result, error) { return b.client.Unbind(t.Context(), unbind) }, "device:unbind:u-1:1775406005920779393", "unbind", unbind},
		{func() (enqueue.Result, error) { return b.client.Release(t.Context(), release) }, "lock:release:u-1:" + release.LockID, "release", release},
		{func() (enqueue.Result, error) { return b.client.Offboard(t.Context(), leaver) }, "user:offboard:u-1:", "offboard", leaver},
	} {
		before := time.Now()
		res, err := tc.enqueue()
		if err != nil || res.ID != tc.id || res.Queue != tc.queue || res.Status != enqueue.Enqueued {
			t.Fatalf("%+v, %v; want it enqueued as %s in queue %s", res, err, tc.id, tc.queue)
		}
		info := b.info(t, res)
		if info.State != asynq.TaskStatePending || info.MaxRetry != tasks.MaxRetry || info.Timeout != tasks.Timeout || info.Retention != 0 {
			t.Errorf("the stored task is %+v; want it pending, with our retry limit and timeout and without retention", info)
		}
		task, in, err := tasks.Decode(tasks.Kind(info.Type), info.Payload)
		if err != nil || task != tc.task || in.EnqueuedAt.Before(before.Add(-time.Second)) || in.NoGuard || !in.NotAfter.IsZero() {
			t.Errorf("the payload %s is %+v, %+v, %v; want %+v, enqueued now", info.Payload, task, in, err, tc.task)
		}
	}
}

func TestEnqueue_Duplicate(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first, err := b.client.Unbind(t.Context(), unbind, enqueue.In(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	res, err := b.client.Unbind(t.Context(), unbind, enqueue.In(2*time.Hour))
	if err != nil || res.Status != enqueue.Duplicate || res.ID != first.ID {
		t.Fatalf("%+v, %v; want a duplicate of %s", res, err, first.ID)
	}
	if wait := time.Until(res.RunAt); wait < 50*time.Minute {
		t.Errorf("the outstanding task runs in %s; want about an hour", wait)
	}
	if err := b.inspector.DeleteTask(res.Queue, res.ID); err != nil { // as a worker does that has finished it
		t.Fatal(err)
	}
	if res, err := b.client.Unbind(t.Context(), unbind); err != nil || res.Status != enqueue.Enqueued {
		t.Errorf("after the task is done: %+v, %v; want it enqueued again", res, err)
	}
}

func TestEnqueue_ConcurrentOrders(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[enqueue.Status]int{}
	for range 50 {
		wg.Go(func() {
			res, err := b.client.Release(t.Context(), release)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			got[res.Status]++
		})
	}
	wg.Wait()
	if diff := cmp.Diff(map[enqueue.Status]int{enqueue.Enqueued: 1, enqueue.Duplicate: 49}, got); diff != "" {
		t.Errorf("statuses (-want +got):\n%s", diff)
	}
}

func TestEnqueue_DelayIsNeverShorter(t *testing.T) {
	t.Parallel()
	b := setup(t)
	before := time.Now()
	const delay = 1500 * time.Millisecond
	res, err := b.client.Unbind(t.Context(), unbind, enqueue.In(delay))
	if err != nil {
		t.Fatal(err)
	}
	if at := b.info(t, res).NextProcessAt; at.Before(before.Add(delay)) || at.After(time.Now().Add(delay+time.Second)) {
		t.Errorf("runs %s after it was enqueued; want %s, or up to a second more", at.Sub(before), delay)
	}
}

func TestEnqueue_DeadlineAndNoGuardInPayload(t *testing.T) {
	t.Parallel()
	b := setup(t)
	deadline := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	res, err := b.client.Unbind(t.Context(), unbind, enqueue.Deadline(deadline), enqueue.NoGuard())
	if err != nil {
		t.Fatal(err)
	}
	_, in, err := tasks.Decode(tasks.KindDeviceUnbind, b.info(t, res).Payload)
	if err != nil || !in.NotAfter.Equal(deadline) || !in.NoGuard {
		t.Errorf("%+v, %v; want the deadline %s and no guard", in, err, deadline)
	}
}

// An order is a duplicate only if the outstanding task will certainly do all that
// the order demands.
func TestEnqueue_DuplicateOnlyIfCovered(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	soon, late := time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	type order struct {
		after time.Duration // since the first order
		opts  []enqueue.Option
	}
	for name, tc := range map[string]struct {
		first, second order
		want          enqueue.Status
	}{
		"the same":                  {order{}, order{}, enqueue.Duplicate},
		"soon after":                {order{}, order{after: 9 * time.Minute}, enqueue.Duplicate},
		"long after, guarded":       {order{}, order{after: 11 * time.Minute}, enqueue.Enqueued},
		"long after, unguarded":     {order{opts: []enqueue.Option{enqueue.NoGuard()}}, order{after: time.Hour}, enqueue.Duplicate},
		"without guard after with":  {order{}, order{opts: []enqueue.Option{enqueue.NoGuard()}}, enqueue.Enqueued},
		"with guard after without":  {order{opts: []enqueue.Option{enqueue.NoGuard()}}, order{}, enqueue.Duplicate},
		"no deadline after one":     {order{opts: []enqueue.Option{enqueue.Deadline(soon)}}, order{}, enqueue.Enqueued},
		"later deadline":            {order{opts: []enqueue.Option{enqueue.Deadline(soon)}}, order{opts: []enqueue.Option{enqueue.Deadline(late)}}, enqueue.Enqueued},
		"sooner deadline":           {order{opts: []enqueue.Option{enqueue.Deadline(late)}}, order{opts: []enqueue.Option{enqueue.Deadline(soon)}}, enqueue.Duplicate},
		"now after a delayed one":   {order{opts: []enqueue.Option{enqueue.In(720 * time.Hour)}}, order{}, enqueue.Enqueued},
		"delayed after one for now": {order{}, order{opts: []enqueue.Option{enqueue.In(time.Hour)}}, enqueue.Duplicate},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			now := time.Now()
			if name == "long after, guarded" {
				now = start
			}
			client, err := enqueue.New(enqueue.Config{Redis: b.redis.Client(), Now: func() time.Time { return now }})
			if err != nil {
				t.Fatal(err)
			}
			if res, err := client.Unbind(t.Context(), unbind, tc.first.opts...); err != nil || res.Status != enqueue.Enqueued {
				t.Fatalf("the first order: %+v, %v; want it enqueued", res, err)
			}
			now = now.Add(tc.second.after)
			for _, want := range []enqueue.Status{tc.want, enqueue.Duplicate} {
				if res, err := client.Unbind(t.Context(), unbind, tc.second.opts...); err != nil || res.Status != want {
					t.Errorf("%+v, %v; want %s", res, err, want)
				}
			}
		})
	}
}

// While a task is running, its device may be bound again. So an order that comes
// then is not a duplicate.
func TestEnqueue_WhileTheTaskIsRunning(t *testing.T) {
	t.Parallel()
	b := setup(t)
	started, release := make(chan struct{}, 3), make(chan struct{})
	srv := asynq.NewServerFromRedisClient(b.redis.Client(), asynq.Config{
		Concurrency: 2, Queues: map[string]int{tasks.QueueUnbind: 1}, TaskCheckInterval: 10 * time.Millisecond, LogLevel: asynq.FatalLevel,
	})
	if err := srv.Start(asynq.HandlerFunc(func(context.Context, *asynq.Task) error { started <- struct{}{}; <-release; return nil })); err != nil {
		t.Fatal(err)
	}
	defer srv.Shutdown()
	defer close(release)
	for range 2 { // one task with the first ID, and one with the second
		if res, err := b.client.Unbind(t.Context(), unbind); err != nil || res.Status != enqueue.Enqueued {
			t.Fatalf("%+v, %v; want it enqueued", res, err)
		}
		<-started
	}
	for _, want := range []enqueue.Status{enqueue.Enqueued, enqueue.Enqueued} {
		if res, err := b.client.Unbind(t.Context(), unbind); err != nil || res.Status != want {
			t.Errorf("while both tasks are active: %+v, %v; want %s", res, err, want)
		}
	}
}

// Redis is emptied after a client has registered the queue.
func TestEnqueue_DuplicateAfterFlush(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, task := range []tasks.Task{unbind, release} {
		if _, err := b.client.Enqueue(t.Context(), task); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.redis.Client().FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []enqueue.Status{enqueue.Enqueued, enqueue.Duplicate} {
		if res, err := b.client.Unbind(t.Context(), unbind); err != nil || res.Status != want {
			t.Errorf("%+v, %v; want %s", res, err, want)
		}
	}
}

// asynq deletes archived tasks after some time, without running them.
func TestEnqueue_ArchivedTaskIsNotOutstanding(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first, err := b.client.Unbind(t.Context(), unbind)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.inspector.ArchiveTask(first.Queue, first.ID); err != nil {
		t.Fatal(err)
	}
	res, err := b.client.Unbind(t.Context(), unbind)
	if err != nil || res.Status != enqueue.Enqueued {
		t.Fatalf("%+v, %v; want it enqueued", res, err)
	}
	if state := b.info(t, res).State; state != asynq.TaskStatePending {
		t.Errorf("the task is %s; want it pending", state)
	}
}

func TestEnqueue_InvalidIsNotSent(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for name, call := range map[string]func() error{
		"device": func() error {
			_, err := b.client.Unbind(t.Context(), tasks.DeviceUnbind{UserID: "u", DeviceID: ".."})
			return err
		},
		"lock": func() error {
			_, err := b.client.Release(t.Context(), tasks.LockRelease{UserID: "u", LockID: "l\r\n"})
			return err
		},
	} {
		var field *tasks.FieldError
		if err := call(); !errors.As(err, &field) {
			t.Errorf("%s: %v; want a FieldError", name, err)
		}
	}
	for name, opt := range map[string]enqueue.Option{
		"negative delay": enqueue.In(-time.Second),
		"past deadline":  enqueue.Deadline(time.Now().Add(-time.Minute)),
	} {
		if _, err := b.client.Unbind(t.Context(), unbind, opt); err == nil {
			t.Errorf("%s: accepted; want an error", name)
		}
	}
	if n := b.redis.Client().DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("Redis has %d keys; want none", n)
	}
}

func TestEnqueue_RedisHangs(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"before the call", "before the duplicate is read"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			if _, err := b.client.Unbind(t.Context(), unbind); err != nil {
				t.Fatal(err)
			}
			rdb := b.redis.Client()
			if point == "before the call" {
				b.redis.Freeze()
			} else {
				rdb.AddHook(afterScript(b.redis.Freeze))
			}
			defer b.redis.Thaw()
			client, err := enqueue.New(enqueue.Config{Redis: rdb})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			start := time.Now()
			if _, err := client.Unbind(ctx, unbind); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v; want the context's deadline", err)
			}
			if took := time.Since(start); took > 2500*time.Millisecond {
				t.Errorf("the call took %s; want about 300ms", took)
			}
		})
	}
}

// afterScript is a hook that calls its function once, after the first script.
type afterScript func()

func (afterScript) DialHook(next redis.DialHook) redis.DialHook { return next }

func (afterScript) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (act afterScript) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	once := sync.OnceFunc(act)
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if name := cmd.Name(); err == nil && (name == "evalsha" || name == "eval") {
			once()
		}
		return err
	}
}

func TestNew_ClientIgnoresDeadlines(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClient(&redis.Options{})
	defer func() { _ = rdb.Close() }()
	if _, err := enqueue.New(enqueue.Config{Redis: rdb}); err == nil {
		t.Error("accepted a client that ignores deadlines; want an error")
	}
	if _, err := enqueue.New(enqueue.Config{}); err == nil {
		t.Error("accepted a configuration without a client; want an error")
	}
}

func TestEnqueue_SweepsReleaseDoesNotCoverAnOrder(t *testing.T) {
	t.Parallel()
	b := setup(t)
	stale := release
	stale.Evidence = tasks.SweepEvidence{Source: tasks.SourceLedger, ExpiredAt: time.Now().Add(-time.Hour)}
	for _, task := range []tasks.LockRelease{stale, release} {
		if res, err := b.client.Release(t.Context(), task); err != nil || res.Status != enqueue.Enqueued {
			t.Errorf("%+v: %+v, %v; want it enqueued", task, res, err)
		}
	}
}
