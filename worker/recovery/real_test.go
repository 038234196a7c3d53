package recovery_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/worker/recovery"
)

// child is a worker with a repairer in a process of its own. Its tasks never end.
func child(addr string) {
	rdb := redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
	r, err := recovery.New(recovery.Config{Redis: rdb, Parker: &parker{}, Receipts: &receipts{}})
	if err != nil {
		panic(err)
	}
	go func() { _ = r.Run(context.Background()) }()
	srv := asynq.NewServerFromRedisClient(rdb, serverConfig())
	if err := srv.Start(asynq.HandlerFunc(func(context.Context, *asynq.Task) error { select {} })); err != nil {
		panic(err)
	}
	select {}
}

// startChild starts this test binary as a worker. kill ends it with SIGKILL.
func (b *bundle) startChild() (kill func()) {
	b.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+b.redis.Addr())
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill() // SIGKILL
		_ = cmd.Wait()
	})
	b.t.Cleanup(kill)
	return kill
}

func (b *bundle) activeIn(queue string) int64 {
	return b.rdb.LLen(b.t.Context(), key(queue, "active")).Val()
}

// empty reads all sets at once. Otherwise a task could move from a set that is still
// to be read to one that was read.
func (b *bundle) empty() bool {
	n, err := b.rdb.Exists(b.t.Context(), key(unbind, "active"), key(unbind, "pending"), key(unbind, "retry"), key(unbind, "archived")).Result()
	return err == nil && n == 0
}

// TestReap_Kill9 kills a worker that runs 100 tasks and holds the lock.
func TestReap_Kill9(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.MinUptime = 0
	kill := b.startChild()
	for _, id := range ids(100) {
		b.enqueue(unbind, id)
	}
	redistest.Eventually(t, 30*time.Second, "100 tasks in flight, and the lock held", func() bool {
		return b.activeIn(unbind) == 100 && b.rdb.Exists(t.Context(), "{kooworker:recovery}:lock").Val() == 1
	})
	b.run()
	kill()
	killed := time.Now()

	var mu sync.Mutex
	again, last, charged, unmarked, counted := map[string]int{}, time.Duration(0), 0, 0, 0
	hold := make(chan struct{})
	b.work(b.redis.Client(), func(ctx context.Context, task *asynq.Task) error {
		id, _ := asynq.GetTaskID(ctx)
		retried, _ := asynq.GetRetryCount(ctx)
		crashes := b.rdb.HExists(ctx, key(unbind, "t:"+id), "kooworker_crashes_alone").Val()
		mu.Lock()
		again[id]++
		last = time.Since(killed)
		charged += retried
		if task.Headers()["kooworker-suspect"] == "" {
			unmarked++
		}
		if crashes {
			counted++
		}
		mu.Unlock()
		<-hold
		return nil
	})
	redistest.Eventually(t, 60*time.Second, "all 100 tasks run again", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(again) == 100
	})
	close(hold)
	redistest.Eventually(t, 20*time.Second, "an empty queue", func() bool {
		return b.empty()
	})
	mu.Lock()
	defer mu.Unlock()
	t.Logf("the last of 100 tasks ran again %s after kill -9", last.Round(10*time.Millisecond))
	if last > 35*time.Second {
		t.Errorf("the last task ran again after %s; want 35s at most", last)
	}
	for id, n := range again {
		if n != 1 {
			t.Errorf("%s ran %d times after the kill", id, n)
		}
	}
	if charged != 0 || unmarked != 0 || counted != 0 {
		t.Errorf("%d retries charged, %d tasks not marked as suspects, %d crashes counted; want none", charged, unmarked, counted)
	}
}

// TestReap_FrozenRedisIsNoCrash freezes Redis until the leases of a living worker
// have expired. If a crash were counted, the task would be parked.
func TestReap_FrozenRedisIsNoCrash(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.MinUptime, b.cfg.MaxCrashes = 0, 1
	var runs, done atomic.Int64
	var frozen atomic.Bool
	release := make(chan struct{})
	b.work(b.redis.Client(), func(ctx context.Context, task *asynq.Task) error {
		runs.Add(1)
		if frozen.Load() { // this is the second run
			done.Add(1)
			return nil
		}
		select {
		case <-release:
		case <-ctx.Done():
		}
		return ctx.Err()
	})
	for _, id := range ids(20) {
		b.enqueue(unbind, id)
	}
	b.run()
	redistest.Eventually(t, 20*time.Second, "20 tasks in flight", func() bool { return runs.Load() == 20 })
	b.redis.Freeze()
	<-time.After(34 * time.Second) // the outage; a lease lasts 30
	frozen.Store(true)
	b.redis.Thaw()
	thawed := time.Now()
	redistest.Eventually(t, 60*time.Second, "all tasks done in a second run", func() bool {
		return done.Load() >= 20 && b.empty()
	})
	close(release)
	t.Logf("%d runs of 20 tasks; done %s after the thaw", runs.Load(), time.Since(thawed).Round(10*time.Millisecond))
	if ids := b.parker.ids(); len(ids) != 0 {
		t.Errorf("parked as crashed: %v; want none", ids)
	}
}

// TestSyncerHook_DoneDuringAnOutage lets tasks end while Redis is away. Without the
// hook asynq's syncer never succeeds and all tasks run twice; with it none does.
func TestSyncerHook_DoneDuringAnOutage(t *testing.T) {
	t.Parallel()
	const n = 20
	for name, tc := range map[string]struct {
		hooks []redis.Hook
		twice int64
	}{
		"stock":         {nil, n},
		"with the hook": {[]redis.Hook{asynqx.SyncerHook()}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, "--appendonly", "yes", "--appendfsync", "always")
			rdb := b.redis.Client()
			for _, h := range tc.hooks {
				rdb.AddHook(h)
			}
			var runs, failed atomic.Int64
			finish := make(chan struct{})
			cfg := serverConfig()
			cfg.Logger, cfg.LogLevel = warnings{&failed}, asynq.WarnLevel
			srv := asynq.NewServerFromRedisClient(rdb, cfg)
			if err := srv.Start(asynq.HandlerFunc(func(context.Context, *asynq.Task) error {
				runs.Add(1)
				<-finish
				return nil
			})); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(srv.Shutdown)
			for _, id := range ids(n) {
				b.enqueue(unbind, id)
			}
			redistest.Eventually(t, 20*time.Second, "all tasks in flight", func() bool { return runs.Load() == n })
			b.redis.Kill()
			close(finish)
			redistest.Eventually(t, 30*time.Second, "every Done to fail", func() bool { return failed.Load() == n })
			b.redis.Restart()
			<-time.After(8 * time.Second) // the syncer's interval is 5 s
			for _, z := range b.rdb.ZRange(t.Context(), key(unbind, "lease"), 0, -1).Val() {
				b.must(b.rdb.ZAdd(t.Context(), key(unbind, "lease"), redis.Z{Score: 1, Member: z}).Err()) // instead of waiting for 30 s
			}
			b.run() // what is left in active runs again
			redistest.Eventually(t, 80*time.Second, "no task left", func() bool {
				return b.empty()
			})
			if twice := runs.Load() - n; twice != tc.twice {
				t.Errorf("%d of %d tasks ran twice; want %d", twice, n, tc.twice)
			}
		})
	}
}

// warnings counts the tasks that asynq hands to its syncer.
type warnings struct{ failed *atomic.Int64 }

func (w warnings) Warn(args ...any) {
	for _, a := range args {
		if s, ok := a.(string); ok && strings.Contains(s, "Will retry syncing") {
			w.failed.Add(1)
		}
	}
}
func (warnings) Debug(...any) {}
func (warnings) Info(...any)  {}
func (warnings) Error(...any) {}
func (warnings) Fatal(...any) {}
