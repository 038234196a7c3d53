package batch_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

func TestClaim_Again(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.open(t, batch.Spec{})
	all := digests(input("", 700))
	for n, first := range []int64{0, batch.ChunkSize} {
		part := chunkOf(all, n)
		for _, known := range []int{1, 1, 2, 99, len(part), len(part)} {
			c := b.claim(t, id, n, part[:known])
			if got := c.Index(0); got != first {
				t.Errorf("chunk %d begins at %d; want %d", n, got, first)
			}
			if got, want := c.Index(known-1), first+int64(known)-1; got != want {
				t.Errorf("item %d of chunk %d has the index %d; want %d", known-1, n, got, want)
			}
			b.mark(t, id, batch.Queued, c.Index(0), c.Index(known/2))
			if got := b.claim(t, id, n, part[:known]); got.State(0) != batch.Queued || got.State(known/2) != batch.Queued {
				t.Errorf("claimed again: %s, %s; want what was marked", got.State(0), got.State(known/2))
			}
		}
	}
	for _, fewer := range []int{1, 511} {
		if c, err := b.store.ClaimChunk(t.Context(), id, 0, all[:fewer]); c.Need != batch.ChunkSize || err != nil {
			t.Errorf("claim %d items: need %d, %v; want need %d", fewer, c.Need, err, batch.ChunkSize)
		}
	}
	b.stats(t, id)
}

func TestClaim_ReturnsStates(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.open(t, batch.Spec{})
	all := digests(input("", batch.ChunkSize+5))
	b.claim(t, id, 0, chunkOf(all, 0))
	c := b.claim(t, id, 1, chunkOf(all, 1))
	want := []batch.State{batch.Succeeded, batch.Absent, batch.Dead, batch.Rejected, batch.Duplicate}
	b.recordOutcomes(t, receipt(id, c.Index(0), tasks.Succeeded), receipt(id, c.Index(2), tasks.Dead))
	b.mark(t, id, batch.Rejected, c.Index(3))
	b.mark(t, id, batch.Duplicate, c.Index(4))
	c = b.claim(t, id, 1, chunkOf(all, 1))
	for i, state := range want {
		if got := c.State(i); got != state {
			t.Errorf("item %d is %s; want %s", i, got, state)
		}
	}
}

func TestClaim_AnotherInput(t *testing.T) {
	t.Parallel()
	b := setup(t)
	// with returns the input with another item at one position.
	with := func(position, n int) []tasks.Task {
		items := input("", n)
		items[position] = tasks.LockRelease{UserID: "u", LockID: "l"}
		return items
	}
	for name, tc := range map[string]struct {
		first, second []tasks.Task
		chunk         int // in which the difference is found
		from, to      int64
	}{
		"the first item":           {input("", 600), with(0, 600), 0, 1, 512},
		"within a full chunk":      {input("", 600), with(300, 600), 0, 1, 512},
		"the end of a full chunk":  {input("", 600), with(511, 600), 0, 1, 512},
		"a partly known chunk":     {input("", 600), with(599, 600), 1, 513, 600},
		"a single item":            {input("", 1), with(0, 1), 0, 1, 1},
		"longer, and another item": {input("", 600), with(520, 700), 1, 513, 600},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id := b.open(t, batch.Spec{})
			one, two := digests(tc.first), digests(tc.second)
			for n := 0; n*batch.ChunkSize < len(one); n++ {
				b.claim(t, id, n, chunkOf(one, n))
			}
			for n := range tc.chunk {
				b.claim(t, id, n, chunkOf(two, n))
			}
			c, err := b.store.ClaimChunk(t.Context(), id, int64(tc.chunk), chunkOf(two, tc.chunk))
			other, ok := errors.AsType[*batch.InputError](err)
			if !ok || c.Need != 0 {
				t.Fatalf("need %d, %v; want an InputError", c.Need, err)
			}
			if other.First != tc.from || other.Last != tc.to || other.ID != id {
				t.Errorf("the error is about the items %d to %d of %q; want %d to %d of %q", other.First, other.Last, other.ID, tc.from, tc.to, id)
			}
			if err := b.store.Mark(t.Context(), id, []batch.Mark{{Index: 0, State: batch.Queued}}, nil); err != nil {
				t.Errorf("mark an item of the first input: %v; want no error", err)
			}
		})
	}
}

func TestClaim_LongerOrShorterInput(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, n := range []int{511, 512, 513, 1024} {
		id, _ := b.closedBatch(t, batch.Spec{}, n)
		longer := digests(input("", n+1))
		chunk := n / batch.ChunkSize
		_, err := b.store.ClaimChunk(t.Context(), id, int64(chunk), chunkOf(longer, chunk))
		if _, ok := errors.AsType[*batch.InputError](err); !ok {
			t.Errorf("claim one item more than the %d of the closed input: %v; want an InputError", n, err)
		}
		if _, ok := errors.AsType[*batch.InputError](b.store.CloseInput(t.Context(), id, int64(n-1))); !ok {
			t.Errorf("close an input of %d items again with one less: want an InputError", n)
		}
		if b.closeInput(t, id, n); b.stats(t, id).Total != int64(n) {
			t.Errorf("%+v; want %d tasks", b.stats(t, id), n)
		}
	}
	// An input may grow until it is closed.
	id := b.open(t, batch.Spec{})
	b.queue(t, id, 511)
	b.queue(t, id, 1030)
	if err := b.store.CloseInput(t.Context(), id, 511); err == nil {
		t.Error("closed an input with fewer items than were claimed; want an error")
	}
	b.closeInput(t, id, 1030)
}

func TestClaim_NoSuchBatch(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, id := range []string{"none", "", "a}b"} {
		_, claimed := b.store.ClaimChunk(t.Context(), id, 0, digests(input("", 1)))
		marked := b.store.Mark(t.Context(), id, []batch.Mark{{State: batch.Queued}}, nil)
		closed := b.store.CloseInput(t.Context(), id, 0)
		for _, err := range []error{claimed, marked, closed} {
			if _, ok := errors.AsType[*batch.NotFoundError](err); !ok {
				t.Errorf("%q: %v; want a NotFoundError", id, err)
			}
		}
	}
	if n := b.rdb.DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("there are %d keys; want none", n)
	}
}

// More digests than a chunk has items would reach into the next chunk.
func TestClaim_InvalidChunk(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.open(t, batch.Spec{})
	for _, n := range []int{0, batch.ChunkSize + 1} {
		if _, err := b.store.ClaimChunk(t.Context(), id, 0, digests(input("", n))); err == nil {
			t.Errorf("claimed a chunk of %d items; want an error", n)
		}
	}
	if _, err := b.store.ClaimChunk(t.Context(), id, -1, digests(input("", 1))); err == nil {
		t.Error("claimed chunk -1; want an error")
	}
}

func TestClaim_FullBatch(t *testing.T) {
	t.Parallel()
	b := setup(t)
	parent := func(id string) tasks.BatchRef { return tasks.BatchRef{Batch: id, Index: 1} }
	for _, tc := range []struct {
		next     int64
		chunk    bool // whether the batch has room for one
		children int  // that the batch has room for
	}{
		{tasks.MaxIndex + 1 - batch.ChunkSize, true, batch.ChunkSize},
		{tasks.MaxIndex - batch.ChunkSize, true, batch.ChunkSize + 1},
		{tasks.MaxIndex + 2 - batch.ChunkSize, false, batch.ChunkSize - 1},
		{tasks.MaxIndex, false, 1},
		{tasks.MaxIndex + 1, false, 0},
	} {
		fill := func() string {
			id := b.open(t, batch.Spec{})
			if err := b.rdb.HSet(t.Context(), "kooworker:{batch:"+id+"}:meta", "next", tc.next).Err(); err != nil {
				t.Fatal(err)
			}
			return id
		}
		id := fill()
		c, err := b.store.ClaimChunk(t.Context(), id, 0, digests(input("", 3)))
		if full, isFull := errors.AsType[*batch.FullError](err); isFull == tc.chunk || isFull && full.ID != id {
			t.Errorf("claim a chunk at index %d: %v; want a FullError: %t", tc.next, err, !tc.chunk)
		}
		if tc.chunk && (c.Index(0) < tc.next || c.Index(batch.ChunkSize-1) > tasks.MaxIndex) {
			t.Errorf("the chunk claimed at index %d begins at %d; want it within the limit", tc.next, c.Index(0))
		}
		id = fill()
		var children []batch.Child
		for i := range tc.children + 1 {
			children = append(children, batch.Child{Kind: tasks.KindDeviceUnbind, Target: fmt.Sprint(i)})
		}
		err = b.store.NextRound(t.Context(), parent(id), "p", 1, tasks.LaneSingle, children)
		if _, isFull := errors.AsType[*batch.FullError](err); !isFull {
			t.Errorf("add %d children at index %d: %v; want a FullError", len(children), tc.next, err)
		}
		if recorded, err := b.store.Children(t.Context(), parent(id), "p"); err != nil || recorded.Round != 0 {
			t.Errorf("recorded %+v, %v; want no children", recorded, err)
		}
	}
}

// The batch is deleted and made again between the two calls of one ClaimChunk, which
// has learned from the first how many items are known.
func TestClaim_BatchMadeAgainMeanwhile(t *testing.T) {
	t.Parallel()
	b := setup(t)
	all := digests(input("", 9))
	for name, other := range map[string][]batch.Digest{"empty": nil, "with another input": digests(input("other", 5))} {
		id := b.open(t, batch.Spec{})
		b.claim(t, id, 0, all[:5])
		calls := 0
		store := b.hooked("evalsha", func() {
			if calls++; calls == 2 {
				if err := b.store.Delete(t.Context(), id, true); err != nil {
					t.Error(err)
				}
				b.rdb.Del(t.Context(), "kooworker:{batch:"+id+"}:used") // as after 90 days
				b.open(t, batch.Spec{ID: id})
				if other != nil {
					b.claim(t, id, 0, other)
				}
			}
		})
		c, err := store.ClaimChunk(t.Context(), id, 0, all)
		if _, differs := errors.AsType[*batch.InputError](err); differs != (other != nil) || !differs && err != nil || c.Need != 0 || calls < 2 {
			t.Errorf("%s: need %d, %v, after %d calls; want an InputError: %t", name, c.Need, err, calls, other != nil)
		}
	}
}

// The producer has died and nobody resumes the batch.
func TestAbandon(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.open(t, batch.Spec{})
	all := digests(input("", 600))
	first := b.claim(t, id, 0, chunkOf(all, 0))
	b.mark(t, id, batch.Queued, first.Index(0), first.Index(1))
	second := b.claim(t, id, 1, chunkOf(all, 1)) // no item of it is marked
	err := b.store.Abandon(t.Context(), id)
	if completedAt := b.stats(t, id).CompletedAt; err != nil || !completedAt.IsZero() {
		t.Fatalf("completed at %s, %v; want it incomplete, since two tasks are queued", completedAt, err)
	}
	if err := b.store.CloseInput(t.Context(), id, 600); err == nil {
		t.Error("closed the input of an abandoned batch with another number of items; want an error")
	}
	b.recordOutcomes(t, receipt(id, first.Index(0), tasks.Succeeded), receipt(id, second.Index(3), tasks.AlreadyGone))
	if show := b.stats(t, id); show.Done || show.Total != 3 {
		t.Errorf("%+v; want it not done, with 3 tasks", show)
	}
	b.recordOutcomes(t, receipt(id, first.Index(1), tasks.Superseded))
	if show := b.stats(t, id); !show.Done || show.Total != 3 {
		t.Errorf("%+v; want it done, with 3 tasks", show)
	}
	b.recordOutcomes(t, receipt(id, second.Index(4), tasks.Succeeded)) // a late outcome is recorded, too
	if show := b.stats(t, id); !show.Done || show.Total != 4 || show.Succeeded != 2 {
		t.Errorf("%+v; want the late outcome counted", show)
	}
	if a, err := b.store.Audit(t.Context(), id); err != nil || !a.Clean() {
		t.Errorf("audit: %+v, %v; want it clean", a, err)
	}

	empty := b.open(t, batch.Spec{})
	for _, want := range []bool{true, false} { // only the first call completes it
		before := b.stats(t, empty).CompletedAt
		err := b.store.Abandon(t.Context(), empty)
		if completed := b.stats(t, empty).CompletedAt != before; completed != want || err != nil {
			t.Errorf("abandon an empty batch: completed %t, %v; want %t", completed, err, want)
		}
	}
	if err := b.store.Abandon(t.Context(), "unknown"); err == nil {
		t.Error("abandoned a batch that does not exist; want an error")
	}
	if _, err := b.store.ClaimChunk(t.Context(), id, 2, digests(input("", 700))[:1]); err == nil {
		t.Error("claimed an item of an abandoned batch; want an error")
	}
}
