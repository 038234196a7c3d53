package recovery_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/worker/recovery"
)

// breakPending makes tasks that wait, on several pages, and breaks some in three ways.
func (b *bundle) breakPending(n int) (lost, unreadable []string) {
	b.t.Helper()
	for i, id := range ids(n) {
		b.enqueue(unbind, id)
		switch i % 100 {
		case 7:
			lost = append(lost, id)
			b.must(b.rdb.Del(b.t.Context(), key(unbind, "t:"+id)).Err())
		case 8: // a key of another type holds no task
			lost = append(lost, id)
			b.must(b.rdb.Set(b.t.Context(), key(unbind, "t:"+id), "x", 0).Err())
		case 9:
			unreadable = append(unreadable, id)
			b.must(b.rdb.HSet(b.t.Context(), key(unbind, "t:"+id), "msg", "\xff garbage").Err())
		}
	}
	return lost, unreadable
}

// pendingFaults are the faults of pending IDs; it fails if there are others.
func (b *bundle) pendingFaults(o recovery.ExamineOptions) map[recovery.Repair]int64 {
	b.t.Helper()
	faults, err := recovery.Examine(b.t.Context(), b.rdb, o)
	b.must(err)
	got := make(map[recovery.Repair]int64)
	for _, f := range faults {
		if got[f.Repair] = f.N; !f.IsPending || f.Queue != unbind || len(f.IDs) == 0 {
			b.t.Errorf("%+v; want only faults of pending IDs of %s", f, unbind)
		}
	}
	return got
}

// TestExamine_Pending finds the IDs that wait without a task that can be read, on all pages of the
// list, and finds none without a scan.
func TestExamine_Pending(t *testing.T) {
	t.Parallel()
	b := setup(t)
	lost, unreadable := b.breakPending(1110) // the last page is not full, and has faults
	b.must(b.rdb.LPush(t.Context(), key(unbind, "pending"), lost[0]).Err())
	before := b.dump()
	got := b.pendingFaults(recovery.ExamineOptions{Scan: true})
	want := map[recovery.Repair]int64{recovery.Lost: int64(len(lost)) + 1, recovery.Quarantined: int64(len(unreadable))}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the faults (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, b.dump()); diff != "" {
		t.Errorf("it changed something; want no change:\n%s", diff)
	}
	if got := b.pendingFaults(recovery.ExamineOptions{}); len(got) > 0 {
		t.Errorf("without a scan: %v; want nothing", got)
	}
}

// TestExamine_PendingMoves counts each ID once while workers take tasks and producers add some.
func TestExamine_PendingMoves(t *testing.T) {
	t.Parallel()
	b := setup(t)
	lost, unreadable := b.breakPending(2000)
	added := 0
	got := b.pendingFaults(recovery.ExamineOptions{Scan: true, OnScan: func(int64) {
		for range 41 {
			id, err := b.rdb.RPop(t.Context(), key(unbind, "pending")).Result()
			b.must(err)
			b.must(b.rdb.Del(t.Context(), key(unbind, "t:"+id)).Err())
			taken := func(other string) bool { return other == id }
			lost, unreadable = slices.DeleteFunc(lost, taken), slices.DeleteFunc(unreadable, taken)
			b.enqueue(unbind, fmt.Sprint("new-", added))
			added++
		}
	}})
	if added < 200 {
		t.Fatalf("%d tasks were taken while the list was read; want 200 or more", added)
	}
	want := map[recovery.Repair]int64{recovery.Lost: int64(len(lost)), recovery.Quarantined: int64(len(unreadable))}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the faults (-want +got):\n%s", diff)
	}
}
