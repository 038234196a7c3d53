package enqueue_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

// However often and wherever a bulk is interrupted, each task is queued once in
// the end.
func TestBulk_Resumed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const n = 20_000
	o := enqueue.BulkOptions{Batch: &batch.Spec{ID: "b-1"}}
	interrupted := 0
	for {
		ctx, cancel := context.WithCancel(t.Context())
		left := rand.N(n / 3) //nolint:gosec // any point will do
		o.OnItem = func(enqueue.Item) {
			if left--; left == 0 {
				cancel()
			}
		}
		res, err := b.client.Bulk(ctx, unbinds(n), o)
		cancel()
		if err == nil {
			if res.Enqueued+res.Skipped != n {
				t.Errorf("%+v; want every item enqueued or skipped", res)
			}
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if interrupted++; interrupted > 20 {
			o.OnItem = nil
			if _, err := b.client.Bulk(t.Context(), unbinds(n), o); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	if stats := b.stats(t, "b-1"); stats.Total != n || stats.Queued != n {
		t.Errorf("after %d interruptions: %+v; want %d tasks queued", interrupted, stats, n)
	}
	for target, infos := range b.queued(t) {
		if len(infos) != 1 {
			t.Errorf("%s is queued %d times; want once", target, len(infos))
		}
	}
}

// A bulk that resumes finds the tasks that were stored and not marked.
func TestBulk_StoredButNotMarked(t *testing.T) {
	t.Parallel()
	b := setup(t)
	o := enqueue.BulkOptions{Batch: &batch.Spec{ID: "b-1"}}
	if _, err := b.client.Bulk(t.Context(), unbinds(600), o); err != nil {
		t.Fatal(err)
	}
	// As if the producer had died before it marked a part of a chunk.
	const meta, states = "kooworker:{batch:b-1}:meta", "kooworker:{batch:b-1}:states"
	b.rdb.SetRange(t.Context(), states, 256, strings.Repeat("\x00", 44))
	b.rdb.HSet(t.Context(), meta, "total", 512, "queued", 512)
	b.rdb.HDel(t.Context(), meta, "sealed")
	res, err := b.client.Bulk(t.Context(), unbinds(600), o)
	if want := (enqueue.BulkResult{Batch: "b-1", Total: 600, Enqueued: 88, Skipped: 512}); err != nil || res != want {
		t.Errorf("%+v, %v; want %+v", res, err, want)
	}
	if stats := b.stats(t, "b-1"); stats.Queued != 600 || len(b.queued(t)) != 600 {
		t.Errorf("%+v; want 600 tasks queued", stats)
	}
}

func TestBulk_Restore(t *testing.T) {
	t.Parallel()
	b := setup(t)
	o := enqueue.BulkOptions{Batch: &batch.Spec{ID: "b-1"}}
	if _, err := b.client.Bulk(t.Context(), unbinds(600), o); err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{3, 599} {
		if err := b.inspector.DeleteTask(unbindLanes(t, b.inspector)[0], tasks.BatchIdentity("b-1", unbindOf(i))); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []enqueue.BulkResult{
		{Batch: "b-1", Total: 600, Skipped: 600},
		{Batch: "b-1", Total: 600, Skipped: 598, Enqueued: 2},
		{Batch: "b-1", Total: 600, Skipped: 600},
	} {
		if res, err := b.client.Bulk(t.Context(), unbinds(600), o); err != nil || res != want {
			t.Errorf("restore %t: %+v, %v; want %+v", o.Restore, res, err, want)
		}
		o.Restore = true
	}
	if stats := b.stats(t, "b-1"); stats.Queued != 600 || len(b.queued(t)) != 600 {
		t.Errorf("%+v; want 600 tasks queued", stats)
	}
}
