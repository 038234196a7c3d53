package enqueue_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

// What is enqueued by itself, as a file, as a batch and as urgent does not wait for each other.
func TestEnqueue_Lanes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	if res, err := b.client.Unbind(t.Context(), unbindOf(1)); err != nil || res.Queue != tasks.QueueUnbind {
		t.Errorf("%+v, %v; want it in the queue of unbinds", res, err)
	}
	if res, err := b.client.Unbind(t.Context(), unbindOf(1), enqueue.Urgent()); err != nil || res.Status != enqueue.Enqueued || res.Queue != tasks.QueueUnbind {
		t.Errorf("the same, urgent: %+v, %v; want it enqueued all the same, and a queue without a lane", res, err)
	}
	for _, o := range []enqueue.BulkOptions{
		{},
		{Batch: &batch.Spec{ID: "b"}},
		{Options: []enqueue.Option{enqueue.Urgent()}},
		{Batch: &batch.Spec{ID: "urgent"}, Options: []enqueue.Option{enqueue.Urgent()}},
	} {
		if _, err := b.client.Bulk(t.Context(), unbinds(3), o); err != nil {
			t.Fatal(err)
		}
	}
	lane, err := batch.NewStore(b.rdb).Lane(t.Context(), "b")
	if err != nil || !slices.Contains(tasks.BatchLanes(), lane) {
		t.Errorf("the batch is in lane %q, %v; want one of %v", lane, err, tasks.BatchLanes())
	}
	for l, want := range map[tasks.Lane]int{tasks.LaneSingle: 1, tasks.LaneBulk: 3, tasks.LaneUrgent: 6, lane: 3} {
		infos, err := b.inspector.ListPendingTasks(l.Of(tasks.QueueUnbind))
		if err != nil || len(infos) != want {
			t.Errorf("lane %q has %d tasks, %v; want %d", l, len(infos), err, want)
		}
	}
}

// As many batches as there are lanes have one each, whether they have tasks or not, and the
// next one goes where the fewest tasks wait.
func TestBulk_EachBatchHasALane(t *testing.T) {
	t.Parallel()
	b := setup(t)
	store := batch.NewStore(b.rdb)
	lanes := tasks.BatchLanes()
	seen := make(map[tasks.Lane]string)
	for i := range lanes {
		id := fmt.Sprint("b-", i)
		n := 0
		if i%2 == 0 {
			n = 100 + 100*i
		}
		if _, err := b.client.Bulk(t.Context(), unbinds(n), enqueue.BulkOptions{Batch: &batch.Spec{ID: id}}); err != nil {
			t.Fatal(err)
		}
		lane, err := store.Lane(t.Context(), id)
		if err != nil || seen[lane] != "" {
			t.Errorf("batch %s is in lane %q with %q, %v; want a lane of its own", id, lane, seen[lane], err)
		}
		seen[lane] = id
	}
	for i := range lanes {
		if i%2 == 1 { // those that were empty have 1,000 now
			if _, err := b.client.Bulk(t.Context(), unbinds(1000), enqueue.BulkOptions{Batch: &batch.Spec{ID: fmt.Sprint("more-", i)}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := b.client.Bulk(t.Context(), unbinds(1), enqueue.BulkOptions{Batch: &batch.Spec{ID: "last"}}); err != nil {
		t.Fatal(err)
	}
	if lane, err := store.Lane(t.Context(), "last"); err != nil || seen[lane] != "b-0" {
		t.Errorf("the last batch is in the lane of %q, %v; want that of b-0, which has the fewest tasks", seen[lane], err)
	}
}

// A batch that is resumed stays in its lane, whatever the lanes look like by then, and one that
// a version without lanes has made stays where that one put its tasks.
func TestBulk_ResumedBatchKeepsItsLane(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, id := range []string{"new", "old"} {
		o := enqueue.BulkOptions{Batch: &batch.Spec{ID: id}}
		if _, err := b.client.Bulk(t.Context(), unbinds(600), o); err != nil {
			t.Fatal(err)
		}
		if id == "old" {
			b.rdb.HDel(t.Context(), "kooworker:{batch:old}:meta", "lane")
		}
		before, err := batch.NewStore(b.rdb).Lane(t.Context(), id)
		if err != nil || id == "old" && before != tasks.LaneSingle {
			t.Errorf("batch %s is in lane %q, %v", id, before, err)
		}
		o.Options = []enqueue.Option{enqueue.Urgent()}
		if res, err := b.client.Bulk(t.Context(), unbinds(600), o); err != nil || res.Skipped != 600 {
			t.Errorf("%+v, %v; want 600 skipped", res, err)
		}
		if after, err := batch.NewStore(b.rdb).Lane(t.Context(), id); err != nil || after != before {
			t.Errorf("batch %s moved from lane %q to %q, %v", id, before, after, err)
		}
	}
}
