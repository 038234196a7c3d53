package batch_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

// produced is the result of a producer.
type produced struct {
	indexes []int64
	err     error
}

// produce does what a producer does: it claims an input, step items at a time,
// marks them as queued, and closes the input.
func (b *bundle) produce(tb testing.TB, id string, all []batch.Digest, step int) (p produced) {
	tb.Helper()
	for n := 0; n*batch.ChunkSize < len(all); n++ {
		part := chunkOf(all, n)
		for known, least := 0, 0; known < len(part); {
			try := min(max(known+step, least), len(part))
			c, err := b.store.ClaimChunk(tb.Context(), id, int64(n), part[:try])
			switch {
			case err != nil && strings.Contains(err.Error(), "another producer claims the same chunk"):
				continue
			case err == nil && c.Need > len(part):
				err = fmt.Errorf("the ledger knows %d items; this input is shorter", c.Need)
			case err == nil && c.Need > 0:
				least = c.Need
				continue
			}
			if err != nil {
				p.err = err
				return p
			}
			var marks []batch.Mark
			for ; known < try; known++ {
				p.indexes = append(p.indexes, c.Index(known))
				if c.State(known) == batch.Absent {
					marks = append(marks, batch.Mark{Index: c.Index(known), State: batch.Queued})
				}
			}
			if p.err = b.store.Mark(tb.Context(), id, marks, nil); p.err != nil {
				return p
			}
		}
	}
	p.err = b.store.CloseInput(tb.Context(), id, int64(len(all)))
	return p
}

// Several producers read one input, each at its own pace. All get the same
// indexes.
func TestClaim_ProducersOfOneInput(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.open(t, batch.Spec{})
	const n = 1500
	all := digests(input("", n))
	results := make([]produced, 4)
	var wg sync.WaitGroup
	for p := range results {
		wg.Go(func() { results[p] = b.produce(t, id, all, 37*(p+1)) })
	}
	wg.Wait()
	for p, r := range results {
		if r.err != nil || !slices.Equal(r.indexes, results[0].indexes) {
			t.Errorf("producer %d: %v; want the indexes of the others", p, r.err)
		}
	}
	stats := b.stats(t, id)
	if got, want := counts(stats), (tasks.BatchStats{Total: n, Queued: n}); got != want || !stats.CompletedAt.IsZero() {
		t.Errorf("%+v, completed at %s; want it incomplete, with %+v", got, stats.CompletedAt, want)
	}
}

// If the inputs of several producers differ, one producer wins. The others have
// claimed nothing beyond the items that all inputs share.
func TestClaim_ProducersOfDifferentInputs(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, shared := range []int{0, 1, 300, 512, 513, 900} {
		t.Run(fmt.Sprint(shared, " shared"), func(t *testing.T) {
			t.Parallel()
			const producers, n = 3, 1100
			id := b.open(t, batch.Spec{})
			results := make([]produced, producers)
			var wg sync.WaitGroup
			for p := range results {
				items := slices.Concat(input("", shared), input(fmt.Sprint(p), n-shared))
				wg.Go(func() { results[p] = b.produce(t, id, digests(items), 41*(p+1)) })
			}
			wg.Wait()
			winners := 0
			for p, r := range results {
				other, isOther := errors.AsType[*batch.InputError](r.err)
				switch {
				case r.err == nil:
					winners++
				case !isOther:
					t.Errorf("producer %d: %v; want an InputError", p, r.err)
				case other.Last < int64(shared)+1:
					t.Errorf("the error of producer %d is about the items %d to %d; want one after the %d shared items", p, other.First, other.Last, shared)
				case len(r.indexes) > shared:
					t.Errorf("producer %d has %d indexes; want no more than the %d shared items", p, len(r.indexes), shared)
				}
			}
			if got, want := counts(b.stats(t, id)), (tasks.BatchStats{Total: n, Queued: n}); got != want || winners != 1 {
				t.Errorf("%+v, %d winners; want one winner, and %+v", got, winners, want)
			}
		})
	}
}

// No index is given out twice, in whatever order chunks and children are added.
func TestClaim_IndexesNeverCollide(t *testing.T) {
	t.Parallel()
	b := setup(t)
	all := digests(input("", 5*batch.ChunkSize))
	rapid.Check(t, func(rt *rapid.T) {
		id := b.open(t, batch.Spec{NoReceipts: true})
		given := map[int64]string{}
		give := func(index int64, to string) {
			if was, taken := given[index]; taken && was != to {
				rt.Fatalf("index %d was given to %s and to %s", index, was, to)
			}
			given[index] = to
		}
		chunks := 0
		for step := range rapid.IntRange(1, 12).Draw(rt, "steps") {
			if chunks < 5 && rapid.Bool().Draw(rt, "chunk") {
				known := rapid.IntRange(1, batch.ChunkSize).Draw(rt, "known")
				for _, n := range []int{known, batch.ChunkSize} {
					c := b.claim(t, id, chunks, chunkOf(all, chunks)[:n])
					for i := range n {
						give(c.Index(i), fmt.Sprint("item ", chunks*batch.ChunkSize+i))
					}
				}
				chunks++
				continue
			}
			ref := tasks.BatchRef{Batch: id, Index: int64(rapid.IntRange(0, 1).Draw(rt, "parent"))}
			var children []batch.Child
			for i := range rapid.IntRange(0, 5).Draw(rt, "children") {
				children = append(children, batch.Child{Kind: tasks.KindDeviceUnbind, Target: fmt.Sprint(step, "-", i)})
			}
			if err := b.store.NextRound(t.Context(), ref, "p", step+1, tasks.LaneSingle, children); err != nil {
				rt.Fatal(err)
			}
			recorded, err := b.store.Children(t.Context(), ref, "p")
			if err != nil || len(recorded.Indexes) != len(children) {
				rt.Fatalf("recorded %+v, %v; want %d children", recorded, err, len(children))
			}
			for child, index := range recorded.Indexes {
				give(index, child.Target)
			}
		}
		for n := range chunks { // claimed again, each chunk has the same indexes
			c := b.claim(t, id, n, chunkOf(all, n))
			for i := range batch.ChunkSize {
				give(c.Index(i), fmt.Sprint("item ", n*batch.ChunkSize+i))
			}
			if c.Index(0)%2 != 0 {
				rt.Fatalf("chunk %d begins at the odd index %d; want it to begin with a byte", n, c.Index(0))
			}
		}
	})
}
