package asynqx

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/redistest"
)

// TestHoldHook_RealServer pins the scripts that DequeueHook, HoldHook and RecovererHook
// mean: a real server takes nothing from a queue that another one takes from, forwards
// nothing from one that is held, recovers nothing, and does all else.
func TestHoldHook_RealServer(t *testing.T) {
	t.Parallel()
	p, ctx := newPin(t), t.Context()
	const open, held = "open", "held"
	var hold atomic.Bool
	hold.Store(true)
	rdb := redis.NewClient(p.rdb.Options())
	t.Cleanup(func() { _ = rdb.Close() })
	rdb.AddHook(HoldHook(func(queue string) bool { return queue == held && hold.Load() }))
	rdb.AddHook(DequeueHook(func(queue string) bool { return queue == held && hold.Load() }, func() (string, bool) { return "", false }))
	rdb.AddHook(RecovererHook())

	at := func(queue string) pin { q := p; q.queue = queue; return q }
	for _, queue := range []string{open, held} {
		at(queue).enqueue(queue+"-now", time.Time{})
		at(queue).enqueue(queue+"-due", time.Now().Add(time.Second))
	}
	// A task that expired long ago, which asynq's recoverer would retry at its start.
	at(open).enqueue("expired", time.Now().Add(time.Hour))
	p.rdb.ZRem(ctx, ScheduledKey(open), "expired")
	p.rdb.LPush(ctx, ActiveKey(open), "expired")
	p.rdb.ZAdd(ctx, LeaseKey(open), redis.Z{Score: 1, Member: "expired"})

	var mu sync.Mutex
	var ran []string
	got := func() []string { mu.Lock(); defer mu.Unlock(); return slices.Sorted(slices.Values(ran)) }
	srv := asynq.NewServerFromRedisClient(rdb, asynq.Config{
		Concurrency: 4, Queues: map[string]int{open: 1, held: 1}, LogLevel: asynq.FatalLevel,
		TaskCheckInterval: 10 * time.Millisecond, DelayedTaskCheckInterval: 50 * time.Millisecond,
	})
	if err := srv.Start(asynq.HandlerFunc(func(ctx context.Context, _ *asynq.Task) error {
		id, _ := asynq.GetTaskID(ctx)
		mu.Lock()
		defer mu.Unlock()
		ran = append(ran, id)
		return nil
	})); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Shutdown)
	redistest.Eventually(t, 10*time.Second, "the tasks of the open queue", func() bool { return slices.Equal(got(), []string{"open-due", "open-now"}) })
	time.Sleep(300 * time.Millisecond) //nolint:forbidigo // nothing else may happen in this time
	p.want("what ran while one queue is held", got(), "open-due", "open-now")
	p.want("pending in the held queue", p.list(PendingKey(held)), "held-now")
	p.want("scheduled in the held queue", p.set(ScheduledKey(held)), "held-due")
	p.want("the expired task is left to package recovery", p.list(ActiveKey(open)), "expired")
	hold.Store(false)
	redistest.Eventually(t, 10*time.Second, "all tasks", func() bool { return len(got()) == 4 })
}

// TestHoldHook_OtherScripts lets everything else through.
func TestHoldHook_OtherScripts(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]any{
		"a retry":                 {"evalsha", "sha", 8, "a", "b", "c", "d", "e", "f", "g", "h", 1},
		"the inspector's run all": {"evalsha", "sha", 2, RetryKey("q"), PendingKey("q"), TaskKeyPrefix("q")},
		"two queues":              {"evalsha", "sha", 4, PendingKey("q"), PausedKey("q"), ActiveKey("q"), LeaseKey("r"), 1, 2},
		"another command":         {"zrange", LeaseKey("q"), 0, -1},
		"too few keys":            {"eval", "source", 4, PendingKey("q")},
		"no keys":                 {"eval", "source", 0},
		"half a command":          {"eval", "source"},
		"strange keys":            {"evalsha", "sha", 1, 7},
		"a strange number":        {"evalsha", "sha", "1", LeaseKey("q"), 1, 2},
		"no queue":                {"evalsha", "sha", 1, "lease", 1, 2},
	} {
		for _, hook := range []redis.Hook{
			HoldHook(func(string) bool { return true }), RecovererHook(), ForwardHook(nil, nil),
			DequeueHook(func(string) bool { return true }, func() (string, bool) { return "", false }),
		} {
			called := false
			_ = hook.ProcessHook(func(context.Context, redis.Cmder) error { called = true; return nil })(t.Context(), redis.NewCmd(t.Context(), args...))
			if !called {
				t.Errorf("%s did not reach Redis", name)
			}
		}
	}
}
