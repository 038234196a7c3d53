package recovery_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/worker/recovery"
)

// plant makes one fault of each kind.
func (b *bundle) plant() (want []recovery.Fault) {
	b.t.Helper()
	for _, id := range []string{"archived", "expired", "fresh", "no-lease", "waits", "in-no-set", "no-message", "unreadable", "done", "archived-in-no-set"} {
		b.enqueue(unbind, id)
	}
	b.must(b.inspector.ArchiveTask(unbind, "archived"))
	b.take(unbind, "expired", ago(2*time.Minute))
	b.take(unbind, "fresh", ago(30*time.Second)) // a worker comes to it soon
	b.take(unbind, "no-lease", ago(-time.Minute))
	b.must(b.rdb.ZRem(b.t.Context(), key(unbind, "lease"), "no-lease").Err())
	for _, id := range []string{"in-no-set", "no-message", "unreadable", "done", "archived-in-no-set"} {
		b.must(b.rdb.LRem(b.t.Context(), key(unbind, "pending"), 0, id).Err())
	}
	set := func(id string, values ...any) {
		b.must(b.rdb.HSet(b.t.Context(), key(unbind, "t:"+id), values...).Err())
	}
	b.must(b.rdb.HDel(b.t.Context(), key(unbind, "t:no-message"), "msg").Err())
	set("unreadable", "msg", "\xff garbage")
	set("done", "state", "completed")
	set("archived-in-no-set", "state", "archived")
	b.must(b.rdb.ZAdd(b.t.Context(), key(unbind, "scheduled"), redis.Z{Score: 1e10, Member: "no-hash"}).Err())
	b.must(b.rdb.SRem(b.t.Context(), "asynq:queues", unbind).Err())
	return []recovery.Fault{
		{Queue: unbind, Repair: recovery.Collected, N: 2, IDs: []string{"archived", "archived-in-no-set"}},
		{Queue: unbind, Repair: recovery.Leased, N: 1, IDs: []string{"no-lease"}},
		{Queue: unbind, Repair: recovery.Lost, N: 2, IDs: []string{"no-message", "no-hash"}},
		{Queue: unbind, Repair: recovery.Quarantined, N: 1, IDs: []string{"unreadable"}},
		{Queue: unbind, Repair: recovery.Registered, N: 6},
		{Queue: unbind, Repair: recovery.Requeued, N: 1, IDs: []string{"expired"}},
		{Queue: unbind, Repair: recovery.Restored, N: 1, IDs: []string{"in-no-set"}},
		{Queue: unbind, Repair: recovery.Stray, N: 1, IDs: []string{"done"}},
	}
}

// dump is what is in Redis.
func (b *bundle) dump() map[string]string {
	b.t.Helper()
	out := make(map[string]string)
	for _, k := range b.rdb.Keys(b.t.Context(), "*").Val() {
		text, err := b.rdb.Dump(b.t.Context(), k).Result()
		b.must(err)
		out[k] = text
	}
	return out
}

// TestExamine_FindsAndChangesNothing finds one fault of each kind, and then none, since RunOnce
// has repaired them all.
func TestExamine_FindsAndChangesNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	want := b.plant()
	before := b.dump()
	var read int64
	faults, err := recovery.Examine(t.Context(), b.rdb, recovery.ExamineOptions{Scan: true, OnScan: func(n int64) { read = n }})
	if diff := cmp.Diff(want, faults); err != nil || diff != "" {
		t.Errorf("%v; the faults (-want +got):\n%s", err, diff)
	}
	if diff := cmp.Diff(before, b.dump()); diff != "" || read < 10 {
		t.Errorf("it read %d keys and changed something; want 10 or more, and no change:\n%s", read, diff)
	}

	b.cfg.Queues = nil
	if err := b.repairer().RunOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.want(map[recovery.Repair]int{
		recovery.Collected: 2, recovery.Leased: 1, recovery.Lost: 2, recovery.Quarantined: 1, recovery.Requeued: 2, recovery.Restored: 1, recovery.Stray: 1,
	})
	if faults, err = recovery.Examine(t.Context(), b.rdb, recovery.ExamineOptions{Scan: true}); err != nil || len(faults) > 0 {
		t.Errorf("after the repair: %+v, %v; want no fault", faults, err)
	}
	if n := b.rdb.Exists(t.Context(), lock).Val(); n != 0 {
		t.Error("RunOnce has left the lock; want it free")
	}
}

// Without a scan, what is in no set is not found.
func TestExamine_WithoutScan(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.plant()
	faults, err := recovery.Examine(t.Context(), b.rdb, recovery.ExamineOptions{})
	var got []recovery.Repair
	for _, f := range faults {
		got = append(got, f.Repair)
	}
	if want := []recovery.Repair{recovery.Collected, recovery.Leased, recovery.Registered, recovery.Requeued}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}

// TestExamine_LivingOwner does not take a task for stuck that a server with a clock that is
// behind works on.
func TestExamine_LivingOwner(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.enqueue(unbind, "listed")
	b.take(unbind, "listed", ago(5*time.Minute))
	b.beat("w:7:5ca1ab1e", ago(time.Second), "listed")
	if faults, err := recovery.Examine(t.Context(), b.rdb, recovery.ExamineOptions{Scan: true}); err != nil || len(faults) > 0 {
		t.Errorf("%+v, %v; want no fault", faults, err)
	}
}

// TestRunOnce_WorkerRepairs does nothing while another repairer holds the lock.
func TestRunOnce_WorkerRepairs(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.run()
	other := setup(t)
	other.cfg.Redis = b.cfg.Redis
	for b.rdb.Exists(t.Context(), lock).Val() == 0 {
		<-time.After(10 * time.Millisecond)
	}
	if err := other.repairer().RunOnce(t.Context()); !errors.Is(err, recovery.ErrLocked) {
		t.Errorf("RunOnce returns %v; want ErrLocked", err)
	}
	other.want(map[recovery.Repair]int{})
}

// TestRunOnce_LockOfTheDead waits until the lock of a dead process has expired.
func TestRunOnce_LockOfTheDead(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.must(b.rdb.Set(t.Context(), lock, "dead", 5*time.Second).Err())
	b.enqueue(unbind, "archived")
	b.must(b.inspector.ArchiveTask(unbind, "archived"))
	if err := b.repairer().RunOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.want(map[recovery.Repair]int{recovery.Collected: 1})
}

// TestRunOnce_ManyArchived collects more than a pass does, and ends although the Parker refuses
// some.
func TestRunOnce_ManyArchived(t *testing.T) {
	t.Parallel()
	b := setup(t)
	many := ids(1200)
	for _, id := range append(many, "refused") {
		b.enqueue(unbind, id)
	}
	if _, err := b.inspector.ArchiveAllPendingTasks(unbind); err != nil {
		t.Fatal(err)
	}
	b.parker.refuses = "refused"
	if err := b.repairer().RunOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := b.counts.of(recovery.Collected); n != len(many) {
		t.Errorf("%d tasks are collected; want %d", n, len(many))
	}
	b.wantAt(unbind, "refused", "archived", "hash")
	if _, ok := b.parker.letter(many[0]); !ok {
		t.Error("the Parker has not got the first task; want it")
	}
}

// TestRunOnce_Hold repairs nothing while the clock is wrong.
func TestRunOnce_Hold(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.Hold = func() bool { return true }
	b.enqueue(unbind, "archived")
	b.must(b.inspector.ArchiveTask(unbind, "archived"))
	if err := b.repairer().RunOnce(t.Context()); err == nil {
		t.Error("RunOnce returns nil while it must hold; want an error")
	}
	b.wantAt(unbind, "archived", "archived", "hash")
}
