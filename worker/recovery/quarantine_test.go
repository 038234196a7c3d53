package recovery_test

import (
	"context"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/recovery"
)

func TestLeaseOrphans_FreshLease(t *testing.T) {
	t.Parallel()
	b := setup(t)
	many := ids(1200) // more than one chunk
	for _, id := range many {
		b.enqueue(unbind, id)
		b.take(unbind, id, ago(-time.Minute))
	}
	b.must(b.rdb.ZRem(t.Context(), key(unbind, "lease"), many[7], many[1190]).Err())
	b.passes(2)
	for _, id := range []string{many[7], many[1190]} {
		b.wantAt(unbind, id, "active", "lease", "hash")
		ends := time.Unix(int64(b.rdb.ZScore(t.Context(), key(unbind, "lease"), id).Val()), 0)
		if left := time.Until(ends); left < 20*time.Second || left > 31*time.Second {
			t.Errorf("the lease of %s lasts %s; want 30s", id, left)
		}
	}
	b.want(map[recovery.Repair]int{recovery.Leased: 2})
}

// TestLeaseOrphans_LivingOwnerExtendsTheLease removes the lease of a task while a
// real worker works on it: the task runs once.
func TestLeaseOrphans_LivingOwnerExtendsTheLease(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.run()
	runs, finish := make(chan string, 8), make(chan struct{})
	b.work(b.redis.Client(), func(ctx context.Context, _ *asynq.Task) error {
		id, _ := asynq.GetTaskID(ctx)
		runs <- id
		<-finish
		return nil
	})
	b.enqueue(unbind, "x")
	<-runs
	b.must(b.rdb.ZRem(t.Context(), key(unbind, "lease"), "x").Err())
	redistest.Eventually(t, 10*time.Second, "a fresh lease", func() bool { return b.counts.of(recovery.Leased) == 1 })
	close(finish)
	redistest.Eventually(t, 10*time.Second, "the task to be done", func() bool { return len(b.where(unbind, "x")) == 0 })
	if len(runs) != 0 {
		t.Error("the task ran twice; want once")
	}
}

// TestReap_UnreadableTasks puts into active, beside a good task, everything that
// asynq cannot handle. asynq's recoverer would stop at the first undecodable message.
func TestReap_UnreadableTasks(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := t.Context()
	for _, id := range []string{"good", "garbage", "no-msg", "no-hash", "other", "empty", "not-a-hash"} {
		b.enqueue(unbind, id)
		b.take(unbind, id, ago(time.Minute))
	}
	hash := func(id string) string { return key(unbind, "t:"+id) }
	b.must(b.rdb.HSet(ctx, hash("garbage"), "msg", "\xff garbage").Err())
	b.must(b.rdb.HSet(ctx, hash("empty"), "msg", "").Err())
	b.must(b.rdb.HSet(ctx, hash("other"), "msg", b.field("good", "msg")).Err())
	b.must(b.rdb.HDel(ctx, hash("no-msg"), "msg").Err())
	b.must(b.rdb.Del(ctx, hash("no-hash"), hash("not-a-hash")).Err())
	b.must(b.rdb.Set(ctx, hash("not-a-hash"), "x", 0).Err())
	b.passes(3)

	b.wantAt(unbind, "good", "pending", "hash")
	for _, id := range []string{"garbage", "no-msg", "no-hash", "other", "empty"} {
		b.wantAt(unbind, id)
	}
	b.wantAt(unbind, "not-a-hash", "hash") // whoever wrote that key may want it
	l, _ := b.parker.letter("unbind:garbage")
	if string(l.Payload) != "\xff garbage" || l.Queue != unbind || l.Reason != tasks.Undecodable || len(l.Error) <= len("undecodable: ") {
		t.Errorf("the Parker got %+v; want the message of task garbage in queue unbind, and an error", l)
	}
	b.want(map[recovery.Repair]int{recovery.Requeued: 1, recovery.Quarantined: 3, recovery.Lost: 3})
}

// TestReap_PendingTaskWithoutHash shows what asynq does with such an ID: its dequeue
// creates a hash that has a state and nothing else, and leaves the ID in active for
// ever.
func TestReap_PendingTaskWithoutHash(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.enqueue(unbind, "gone")
	b.enqueue(unbind, "next")
	b.must(b.rdb.Del(t.Context(), key(unbind, "t:gone")).Err())
	ran := make(chan string, 8)
	b.work(b.redis.Client(), func(ctx context.Context, _ *asynq.Task) error {
		id, _ := asynq.GetTaskID(ctx)
		ran <- id
		return nil
	})
	if id := <-ran; id != "next" {
		t.Errorf("ran %s; want next", id)
	}
	b.wantAt(unbind, "gone", "active", "lease", "hash")
	if fields := b.rdb.HGetAll(t.Context(), key(unbind, "t:gone")).Val(); len(fields) != 1 || fields["state"] != "active" {
		t.Errorf("asynq's dequeue made %v; want the state active and no other field", fields)
	}
	b.must(b.rdb.ZAdd(t.Context(), key(unbind, "lease"), redis.Z{Score: 1, Member: "gone"}).Err())
	b.passes(2)
	b.wantAt(unbind, "gone")
	b.want(map[recovery.Repair]int{recovery.Lost: 1})
}

func TestScan_WaitingIDWithoutHash(t *testing.T) {
	t.Parallel()
	b := setup(t)
	far := float64(time.Now().Add(time.Hour).Unix())
	for i, id := range ids(300) { // more than a page
		for _, set := range []string{"retry", "scheduled"} {
			b.must(b.rdb.ZAdd(t.Context(), key(dead, set), redis.Z{Score: far, Member: set + id}).Err())
			if i != 250 {
				b.must(b.rdb.HSet(t.Context(), key(dead, "t:"+set+id), "msg", "m", "state", set).Err())
			}
		}
	}
	b.cfg.Queues = []string{dead}
	b.passes(20)
	b.want(map[recovery.Repair]int{recovery.Lost: 2})
	b.wantAt(dead, "retrytask-00250")
	if n := b.rdb.ZCard(t.Context(), key(dead, "retry")).Val(); n != 299 {
		t.Errorf("%d are left in retry; want 299", n)
	}
}

func TestRegister_ForgottenAndPausedQueue(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.passes(1)
	if n := b.rdb.SCard(t.Context(), "asynq:queues").Val(); int(n) != len(b.cfg.Queues) {
		t.Errorf("%d queues are registered; want %d", n, len(b.cfg.Queues))
	}
	b.must(b.inspector.PauseQueue(unbind))
	b.enqueue(unbind, "x")
	b.take(unbind, "x", ago(time.Minute))
	b.passes(3)
	b.want(map[recovery.Repair]int{recovery.Requeued: 1, recovery.Paused: 1})
	if info, err := b.inspector.GetQueueInfo(unbind); err != nil || !info.Paused || info.Pending != 1 {
		t.Errorf("the queue is now %+v, %v; want it paused still", info, err)
	}
}

// TestRepairer_KeyOfWrongTypeStopsNoOtherQueue breaks one queue completely.
func TestRepairer_KeyOfWrongTypeStopsNoOtherQueue(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, name := range []string{"lease", "archived", "retry"} {
		b.must(b.rdb.Set(t.Context(), key(dead, name), "x", 0).Err()) // dead-letter comes first
	}
	b.enqueue(unbind, "x")
	b.take(unbind, "x", ago(time.Minute))
	r := b.repairer()
	for range 2 {
		if err := r.Pass(t.Context()); err == nil {
			t.Error("a pass over a broken queue returns nil; want an error")
		}
	}
	b.wantAt(unbind, "x", "pending", "hash")
}

func TestNew_RefusesBadConfig(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for i, change := range []func(*recovery.Config){
		func(c *recovery.Config) { c.Redis = nil },
		func(c *recovery.Config) { c.Parker = nil },
		func(c *recovery.Config) { c.Receipts = nil },
		func(c *recovery.Config) { c.Interval = 4 * time.Second },
		func(c *recovery.Config) { c.Interval = -1 },
		func(c *recovery.Config) { c.MinUptime = -1 },
		func(c *recovery.Config) { c.MaxCrashes = -1 },
		func(c *recovery.Config) { c.Queues = []string{"a*"} },
		func(c *recovery.Config) { c.Queues = []string{""} },
	} {
		cfg := b.cfg
		change(&cfg)
		if _, err := recovery.New(cfg); err == nil {
			t.Errorf("case %d: New returns nil; want an error", i)
		}
	}
}
