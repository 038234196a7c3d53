package recovery_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/asynqx/wrongclock"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/worker/recovery"
)

// beat writes what a living server writes with each heartbeat: its entry, its info and
// the tasks that it works on.
func (b *bundle) beat(name string, at time.Time, running ...string) {
	b.t.Helper()
	b.leaveHeartbeat(name, at)
	b.setStatus(name, "active")
	for _, id := range running {
		b.must(b.rdb.HSet(b.t.Context(), "asynq:workers:{"+name+"}", id, "").Err())
	}
}

// TestReap_OwnerLives leaves tasks alone whose leases have expired by Redis' clock,
// while the server whose clock is behind lives, and recovers them when it is dead.
func TestReap_OwnerLives(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.MaxCrashes = 1
	behind := ago(10 * time.Minute)
	for _, id := range []string{"listed", "just taken", "of another"} {
		b.enqueue(unbind, id)
		b.callAlone(unbind, id, "w:7")
	}
	b.take(unbind, "listed", ago(5*time.Minute)) // before the clock jumped
	b.take(unbind, "just taken", behind.Add(32*time.Second))
	b.take(unbind, "of another", ago(2*time.Minute))
	b.beat("w:7:5ca1ab1e", behind, "listed")
	b.passes(3)
	b.wantAt(unbind, "listed", "active", "lease", "hash")
	b.wantAt(unbind, "just taken", "active", "lease", "hash")
	b.wantAt(unbind, "of another", "pending", "hash")

	for _, name := range []string{"asynq:servers", "asynq:workers"} { // they expire
		b.must(b.rdb.Del(t.Context(), name+":{w:7:5ca1ab1e}").Err())
	}
	b.passes(2)
	b.wantAt(unbind, "listed", "pending", "hash")
	b.wantAt(unbind, "just taken") // it was called alone, and its worker died
	b.want(map[recovery.Repair]int{recovery.Requeued: 2, recovery.Crashed: 1})
}

// TestReap_ServerThatHasJustStarted looks at a server whose clock is behind between the two
// writes of its first heartbeat: it is on the list, and its info is not there yet.
func TestReap_ServerThatHasJustStarted(t *testing.T) {
	t.Parallel()
	b := setup(t)
	behind := ago(40 * time.Second)
	b.leaveHeartbeat("w:7:5ca1ab1e", behind)
	r := b.repairer()
	b.passesOf(r, 1)
	b.setStatus("w:7:5ca1ab1e", "active")
	b.enqueue(unbind, "just taken")
	b.take(unbind, "just taken", behind.Add(asynqx.LeaseTTL))
	b.passesOf(r, 2)
	b.wantAt(unbind, "just taken", "active", "lease", "hash")
	b.want(map[recovery.Repair]int{})
}

// TestReap_OwnersDoNotHoldUpOthers has more tasks with living owners than a chunk.
func TestReap_OwnersDoNotHoldUpOthers(t *testing.T) {
	t.Parallel()
	b := setup(t)
	owned := ids(120)
	for _, id := range append(owned, "expired") {
		b.enqueue(unbind, id)
		b.take(unbind, id, ago(time.Hour))
	}
	b.take(unbind, "expired", ago(time.Minute))
	b.beat("w:7:5ca1ab1e", ago(time.Second), owned...)
	b.passes(2)
	b.wantAt(unbind, "expired", "pending", "hash")
	b.want(map[recovery.Repair]int{recovery.Requeued: 1})
}

// TestLeaseOrphans_LeaseThatEndsTooLate shortens what a clock that was ahead wrote.
func TestLeaseOrphans_LeaseThatEndsTooLate(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for id, left := range map[string]time.Duration{"ahead": time.Hour, "right": 29 * time.Second} {
		b.enqueue(unbind, id)
		b.take(unbind, id, time.Now().Add(left))
	}
	b.passes(2)
	for _, id := range []string{"ahead", "right"} {
		ends := time.Unix(int64(b.rdb.ZScore(t.Context(), key(unbind, "lease"), id).Val()), 0)
		if left := time.Until(ends); left < 20*time.Second || left > 31*time.Second {
			t.Errorf("the lease of %s lasts %s; want 30s at most", id, left)
		}
	}
	b.want(map[recovery.Repair]int{})
}

// TestRun_Hold repairs nothing while it is told to hold, and frees the lock.
func TestRun_Hold(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var mu sync.Mutex
	held := false
	b.cfg.Hold = func() bool { mu.Lock(); defer mu.Unlock(); return held }
	set := func(v bool) { mu.Lock(); defer mu.Unlock(); held = v }
	holds := func() bool { return b.rdb.Exists(t.Context(), lock).Val() == 1 }
	b.run()
	redistest.Eventually(t, 5*time.Second, "the lock held", holds)
	set(true)
	redistest.Eventually(t, 5*time.Second, "the lock free", func() bool { return !holds() })
	b.enqueue(unbind, "x")
	b.take(unbind, "x", ago(time.Minute))
	<-time.After(3 * time.Second) // in which it would be repaired
	b.wantAt(unbind, "x", "active", "lease", "hash")
	set(false)
	redistest.Eventually(t, 10*time.Second, "the task repaired", func() bool { return b.counts.of(recovery.Requeued) == 1 })
}

// TestReap_RealServerWithAWrongClock runs a real asynq server that does not know that
// its clock is wrong, beside a repairer. Nobody takes its tasks away.
func TestReap_RealServerWithAWrongClock(t *testing.T) {
	t.Parallel()
	for name, ahead := range map[string]time.Duration{"behind": -10 * time.Minute, "a bit behind": -40 * time.Second, "ahead": 10 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.cfg.MaxCrashes = 1
			b.run()
			var mu sync.Mutex
			runs := map[string]int{}
			for _, off := range []time.Duration{ahead, 0} { // a wrong one, and a right one
				rdb := redis.NewClient(b.rdb.Options())
				t.Cleanup(func() { _ = rdb.Close() })
				rdb.AddHook(asynqx.RecovererHook())
				rdb.AddHook(wrongclock.New(off))
				b.work(rdb, func(ctx context.Context, _ *asynq.Task) error {
					id, _ := asynq.GetTaskID(ctx)
					mu.Lock()
					runs[id]++
					mu.Unlock()
					<-time.After(8 * time.Second)
					return nil
				})
			}
			for _, id := range ids(200) {
				b.enqueue(unbind, id)
			}
			redistest.Eventually(t, 60*time.Second, "all tasks done", func() bool { return b.empty() })
			mu.Lock()
			defer mu.Unlock()
			for id, n := range runs {
				if n != 1 {
					t.Errorf("%s ran %d times; want once", id, n)
				}
			}
			if len(runs) != 200 || len(b.parker.ids()) != 0 {
				t.Errorf("%d of 200 ran, and dead are %v; want all, and none", len(runs), b.parker.ids())
			}
			b.want(map[recovery.Repair]int{})
		})
	}
}
