package asynqx

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/redistest"
)

// A server runs what is due in each of its queues, and does not ask for those that have nothing.
func TestForwardHook_RealServer(t *testing.T) {
	t.Parallel()
	p := newPin(t)
	queues := map[string]int{p.queue: 1, "b": 1, "c": 1, "d": 1, "e": 1}
	var names []string
	for q := range queues {
		names = append(names, q)
	}
	rdb := redis.NewClient(p.rdb.Options())
	t.Cleanup(func() { _ = rdb.Close() })
	rdb.AddHook(ForwardHook(rdb, names))
	var asked, ran atomic.Int64
	rdb.AddHook(commandHook(func(next redis.ProcessHook) redis.ProcessHook {
		return func(ctx context.Context, cmd redis.Cmder) error {
			if s, ok := scriptOf(cmd); ok {
				if _, ok := s.forwards(); ok {
					asked.Add(1)
				}
			}
			return next(ctx, cmd)
		}
	}))
	srv := asynq.NewServerFromRedisClient(rdb, asynq.Config{
		Concurrency: 4, Queues: queues, LogLevel: asynq.FatalLevel, TaskCheckInterval: 10 * time.Millisecond, DelayedTaskCheckInterval: 50 * time.Millisecond,
		RetryDelayFunc: func(int, error, *asynq.Task) time.Duration { return time.Second },
	})
	if err := srv.Start(asynq.HandlerFunc(func(context.Context, *asynq.Task) error {
		if ran.Add(1) == 1 {
			return context.Canceled // it is tried again
		}
		return nil
	})); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Shutdown)
	time.Sleep(300 * time.Millisecond) //nolint:forbidigo // nothing may be asked in this time
	if n := asked.Load(); n != 0 {
		t.Errorf("asked %d times what is due in empty queues; want 0", n)
	}
	p.enqueue("due", time.Now().Add(2*time.Second))
	redistest.Eventually(t, 10*time.Second, "the task and its retry", func() bool { return ran.Load() == 2 })
}

// If Redis does not answer the look, the server asks as it always did.
func TestForwardHook_AsksIfItDoesNotKnow(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	server.Kill()
	called := false
	hook := ForwardHook(rdb, []string{"q"}).ProcessHook(func(context.Context, redis.Cmder) error { called = true; return nil })
	_ = hook(t.Context(), redis.NewCmd(t.Context(), "evalsha", "sha", 2, ScheduledKey("q"), PendingKey("q"), 1, 2, 3, 4))
	if !called {
		t.Error("the question did not reach Redis")
	}
}
