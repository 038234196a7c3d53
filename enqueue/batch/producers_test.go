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

// produced is what became of a producer.
type produced struct {
	indexes   []int64
	completed bool
	err       error
}

// produce does what a producer does: it claims an input, so many items at a
// time, marks them as queued, and seals the batch.
func (b *bundle) produce(tb testing.TB, id string, all []batch.Digest, step int) (p produced) {
	tb.Helper()
	for n := 0; n*batch.ChunkSize < len(all); n++ {
		part := chunkOf(all, n)
		for known, need := 0, 0; known < len(part); {
			try := min(max(known+step, need), len(part))
			c, more, err := b.store.Claim(tb.Context(), id, int64(n), part[:try])
			switch {
			case err != nil && strings.Contains(err.Error(), "another producer is at it"):
				continue
			case err == nil && more > len(part):
				err = fmt.Errorf("there are %d; this one is shorter", more)
			case err == nil && more > 0:
				need = more
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
	p.completed, p.err = b.store.CloseInput(tb.Context(), id, int64(len(all)))
	return p
}

// Several producers with one input, each at its own pace: all get the same
// places.
func TestProducersOfOneInput(t *testing.T) {
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
	completions := 0
	for p, r := range results {
		if r.err != nil || !slices.Equal(r.indexes, results[0].indexes) {
			t.Errorf("producer %d: %v; want the places of the others", p, r.err)
		}
		if r.completed {
			completions++
		}
	}
	if got, want := standing(b.balance(t, id)), (tasks.BatchStats{Total: n, Queued: n}); got != want || completions != 0 {
		t.Errorf("%+v, complete %d times; want %+v", got, completions, want)
	}
}

// Of producers with inputs that differ, one wins, and the others have put
// nothing beyond what they share.
func TestProducersOfDifferentInputs(t *testing.T) {
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
					t.Errorf("producer %d is told of the items %d to %d, and %d are shared", p, other.First, other.Last, shared)
				case len(r.indexes) > shared:
					t.Errorf("producer %d was given %d places, and only %d items are shared", p, len(r.indexes), shared)
				}
			}
			if got, want := standing(b.balance(t, id)), (tasks.BatchStats{Total: n, Queued: n}); got != want || winners != 1 {
				t.Errorf("%+v, %d winners; want one, and %+v", got, winners, want)
			}
		})
	}
}

// Whatever chunks and children come in between, no index is given twice.
func TestIndexesNeverCollide(t *testing.T) {
	t.Parallel()
	b := setup(t)
	all := digests(input("", 5*batch.ChunkSize))
	rapid.Check(t, func(rt *rapid.T) {
		id := b.open(t, batch.Spec{NoReceipts: true})
		given := map[int64]string{}
		give := func(index int64, to string) {
			if was, taken := given[index]; taken && was != to {
				rt.Fatalf("%d was given to %s and to %s", index, was, to)
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
			place := tasks.BatchRef{Batch: id, Index: int64(rapid.IntRange(0, 1).Draw(rt, "parent"))}
			var children []batch.Child
			for i := range rapid.IntRange(0, 5).Draw(rt, "children") {
				children = append(children, batch.Child{Kind: tasks.KindDeviceUnbind, Target: fmt.Sprint(step, "-", i)})
			}
			if err := b.store.NextRound(t.Context(), place, "p", step+1, children); err != nil {
				rt.Fatal(err)
			}
			brood, err := b.store.Children(t.Context(), place, "p")
			if err != nil || len(brood.Indexes) != len(children) {
				rt.Fatalf("noted %+v, %v; want %d children", brood, err, len(children))
			}
			for child, index := range brood.Indexes {
				give(index, child.Target)
			}
		}
		for n := range chunks { // where they were, whatever came in between
			c := b.claim(t, id, n, chunkOf(all, n))
			for i := range batch.ChunkSize {
				give(c.Index(i), fmt.Sprint("item ", n*batch.ChunkSize+i))
			}
			if c.Index(0)%2 != 0 {
				rt.Fatalf("chunk %d begins at %d, within a byte", n, c.Index(0))
			}
		}
	})
}
