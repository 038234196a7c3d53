package batch_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

// machine applies the same steps to the ledger and to models of a few batches, and
// compares them after each step.
type machine struct {
	*bundle
	tb      testing.TB
	batches []*model
	touched map[*model]bool // by the last step
}

func TestStore_MatchesModel(t *testing.T) {
	t.Parallel()
	b := setup(t)
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		m := machine{bundle: b, tb: t, touched: map[*model]bool{}}
		for i := range 3 {
			items := rapid.OneOf(rapid.IntRange(0, 6), rapid.IntRange(0, 6), rapid.SampledFrom([]int{511, 512, 513, 1100})).Draw(rt, "items")
			m.batches = append(m.batches, newModel(fmt.Sprintf("b%d.%d", runs, i), items, rapid.Bool().Draw(rt, "receipts")))
		}
		m.opens(rt)
		rt.Repeat(map[string]func(*rapid.T){
			"": m.check, "open": m.opens, "claim": m.claims, "claim2": m.claims, "mark": m.marks, "record": m.recordOutcomes, "record2": m.recordOutcomes,
			"close": m.closeInputs, "round": m.nextRounds, "children": m.checkChildren,
		})
	})
}

// one draws the batch of the next step.
func (m *machine) one(rt *rapid.T) *model {
	one := m.batches[rapid.IntRange(0, len(m.batches)-1).Draw(rt, "batch")]
	m.touched[one] = true
	return one
}

// missing requires the error of a batch that does not exist.
func missing(rt *rapid.T, err error) {
	if _, ok := errors.AsType[*batch.NotFoundError](err); !ok {
		rt.Fatalf("%v; want a NotFoundError", err)
	}
}

func (m *machine) opens(rt *rapid.T) {
	one := m.one(rt)
	id, resumed, err := m.store.Open(m.tb.Context(), batch.Spec{ID: one.id, NoReceipts: !one.receipts})
	if err != nil || id != one.id || resumed != one.open {
		rt.Fatalf("opened %q, resumed %t, %v; want it resumed: %t", id, resumed, err, one.open)
	}
	one.open = true
	_, _, err = m.store.Open(m.tb.Context(), batch.Spec{ID: one.id, NoReceipts: one.receipts})
	if _, ok := errors.AsType[*batch.SpecError](err); !ok {
		rt.Fatalf("%v; want a SpecError", err)
	}
}

func (m *machine) claims(rt *rapid.T) {
	one := m.one(rt)
	n := rapid.IntRange(0, len(one.starts)).Draw(rt, "chunk")
	if n > 0 && n == len(one.starts) && one.known[n-1] < batch.ChunkSize {
		n--
	}
	part := chunkOf(one.digests, n)
	if len(part) == 0 {
		return
	}
	items := rapid.OneOf(rapid.IntRange(1, len(part)), rapid.Just(len(part))).Draw(rt, "items")
	anotherInput := n < len(one.starts) && rapid.IntRange(0, 4).Draw(rt, "other input") == 0
	if anotherInput {
		part = chunkOf(one.other, n)
	}
	c, err := m.store.ClaimChunk(m.tb.Context(), one.id, int64(n), part[:items])
	if !one.open {
		missing(rt, err)
		return
	}
	if _, other := errors.AsType[*batch.InputError](err); anotherInput && items >= one.known[n] {
		if !other {
			rt.Fatalf("another input: %v; want an InputError", err)
		}
		return
	}
	switch ok, known := one.claim(n, items); {
	case !ok && items < known:
		if c.Need != known || err != nil {
			rt.Fatalf("need %d, %v; want need %d", c.Need, err, known)
		}
	case !ok: // the input is closed
		if _, other := errors.AsType[*batch.InputError](err); !other {
			rt.Fatalf("claim more items than the %d of a closed input: %v; want an InputError", known, err)
		}
	case err != nil || c.Need != 0:
		rt.Fatalf("need %d, %v; want the chunk claimed", c.Need, err)
	default:
		for i := range items {
			index := one.starts[n] + int64(i)
			if c.Index(i) != index || c.State(i) != one.states[index] {
				rt.Fatalf("item %d has the index %d and is %s; want %d and %s", i, c.Index(i), c.State(i), index, one.states[index])
			}
		}
	}
}

func (m *machine) marks(rt *rapid.T) {
	one := m.one(rt)
	if len(one.given) == 0 {
		return
	}
	state := rapid.SampledFrom([]batch.State{batch.Queued, batch.Queued, batch.Duplicate, batch.Rejected})
	marks := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) batch.Mark {
		return batch.Mark{Index: one.given[rapid.IntRange(0, len(one.given)-1).Draw(rt, "given")], State: state.Draw(rt, "state")}
	}), 0, 8).Draw(rt, "marks")
	if rapid.Bool().Draw(rt, "all") {
		for _, index := range one.given {
			marks = append(marks, batch.Mark{Index: index, State: batch.Queued})
		}
	}
	if err := m.store.Mark(m.tb.Context(), one.id, marks, nil); err != nil {
		rt.Fatal(err)
	}
	one.mark(marks)
}

// recordOutcomes records outcomes of several batches at once, and then all of them
// again.
func (m *machine) recordOutcomes(rt *rapid.T) {
	var order []*model
	of := map[*model][]tasks.Receipt{}
	all := []tasks.Receipt{receipt("gone", 1, tasks.Dead)}
	outcome := rapid.SampledFrom([]tasks.Outcome{tasks.Succeeded, tasks.AlreadyGone, tasks.Superseded, tasks.Dead, tasks.Dead, tasks.Discarded, tasks.Cancelled})
	add := func(one *model, r tasks.Receipt) {
		if of[one] == nil {
			order = append(order, one)
		}
		of[one], all = append(of[one], r), append(all, r)
	}
	for range rapid.IntRange(1, 6).Draw(rt, "receipts") {
		one := m.one(rt)
		if len(one.given) == 0 {
			continue
		}
		r := receipt(one.id, one.given[rapid.IntRange(0, len(one.given)-1).Draw(rt, "given")], outcome.Draw(rt, "outcome"))
		r.Attempts, r.UserID = rapid.IntRange(0, 9).Draw(rt, "attempts"), rapid.StringMatching(`[!-~]{1,9}`).Draw(rt, "user")
		add(one, r)
	}
	if one := m.one(rt); rapid.Bool().Draw(rt, "all") {
		o := outcome.Draw(rt, "outcome")
		for _, index := range one.given {
			add(one, receipt(one.id, index, o))
		}
	}
	for range 2 {
		completed, _, err := m.store.RecordOutcomes(m.tb.Context(), all)
		var want []string
		for _, one := range order {
			if one.record(of[one]) {
				want = append(want, one.id)
			}
		}
		if diff := cmp.Diff(want, completed); diff != "" || err != nil {
			rt.Fatalf("%v; completed (-want +got):\n%s", err, diff)
		}
	}
}

func (m *machine) closeInputs(rt *rapid.T) {
	one := m.one(rt)
	items := one.items() + rapid.SampledFrom([]int{0, 0, 0, 1, -1}).Draw(rt, "off")
	err := m.store.CloseInput(m.tb.Context(), one.id, int64(items))
	switch {
	case !one.open:
		missing(rt, err)
	case items > one.items() || items == one.items() && one.gaps():
		if _, lost := errors.AsType[*batch.DataLossError](err); !lost {
			rt.Fatalf("closed with %d items of %d: %v; want a DataLossError", items, one.items(), err)
		}
	case items < one.items():
		if _, other := errors.AsType[*batch.InputError](err); !other {
			rt.Fatalf("closed with %d items instead of %d: %v; want an InputError", items, one.items(), err)
		}
	default:
		if err != nil {
			rt.Fatal(err)
		}
		one.closeInput() // check looks whether this has completed the batch
	}
}

func (m *machine) nextRounds(rt *rapid.T) {
	one := m.one(rt)
	ref := tasks.BatchRef{Batch: one.id, Index: int64(rapid.IntRange(0, 2).Draw(rt, "parent"))}
	round := rapid.IntRange(1, 4).Draw(rt, "round")
	children := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) batch.Child {
		return batch.Child{Kind: tasks.KindDeviceUnbind, Target: rapid.StringMatching(`[a-c]`).Draw(rt, "target")}
	}), 0, 4).Draw(rt, "children")
	if !one.open {
		return
	}
	if err := m.store.NextRound(m.tb.Context(), ref, "p", round, tasks.LaneSingle, children); err != nil {
		rt.Fatal(err)
	}
	one.nextRound(ref.Index, round, children)
}

func (m *machine) checkChildren(rt *rapid.T) {
	one := m.one(rt)
	for parent, want := range one.children {
		got, err := m.store.Children(m.tb.Context(), tasks.BatchRef{Batch: one.id, Index: parent}, "p")
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(batch.Children{}, "Since")); diff != "" || err != nil {
			rt.Fatalf("the children of %d: %v (-want +got):\n%s", parent, err, diff)
		}
	}
}
