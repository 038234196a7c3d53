package batch_test

import (
	"fmt"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

// model is a simple model of a batch, with which the ledger is compared.
type model struct {
	id        string
	receipts  bool
	digests   []batch.Digest // of its input
	other     []batch.Digest // of an input that shares no item with it
	open      bool
	closed    bool
	completed bool

	next     int64
	starts   []int64 // of the chunks
	known    []int   // items of each
	given    []int64 // all indexes that were given out
	states   map[int64]batch.State
	history  []tasks.Receipt
	children map[int64]batch.Children // by the parent's index
}

func newModel(id string, items int, receipts bool) *model {
	return &model{
		id: id, receipts: receipts, digests: digests(input("", items)), other: digests(input("other", items)),
		states: map[int64]batch.State{}, children: map[int64]batch.Children{},
	}
}

// claim claims so many items of a chunk if that is possible, and reports whether
// it is. known is how many items of the chunk are known.
func (m *model) claim(n, items int) (ok bool, known int) {
	if n < len(m.known) {
		known = m.known[n]
	}
	switch {
	case items == known:
		return true, known
	case items < known || m.closed:
		return false, known
	}
	if n == len(m.starts) {
		start := m.next + m.next%2
		m.starts, m.known, m.next = append(m.starts, start), append(m.known, 0), start+batch.ChunkSize
	}
	for i := m.known[n]; i < items; i++ {
		m.given = append(m.given, m.starts[n]+int64(i))
	}
	m.known[n] = items
	return true, items
}

func (m *model) mark(marks []batch.Mark) {
	for _, mark := range marks {
		if m.states[mark.Index] == batch.Absent {
			m.states[mark.Index] = mark.State
		}
	}
}

// record records outcomes and reports whether they complete the batch.
func (m *model) record(receipts []tasks.Receipt) bool {
	for _, r := range receipts {
		state := stateOf(r.Outcome)
		switch was := m.states[r.Index]; was {
		case batch.Absent, batch.Queued:
		case batch.Dead, batch.Discarded:
			if state == was {
				continue
			}
		default:
			continue
		}
		m.states[r.Index] = state
		m.history = append(m.history, r)
	}
	return m.complete()
}

func stateOf(o tasks.Outcome) batch.State {
	for s := batch.Succeeded; s <= batch.Cancelled; s++ {
		if s.String() == string(o) {
			return s
		}
	}
	panic(fmt.Sprintf("%q is not an outcome", o))
}

// items returns how many items of the input are known.
func (m *model) items() (n int) {
	for _, known := range m.known {
		n += known
	}
	return n
}

// gaps reports whether an item of the input has no state.
func (m *model) gaps() bool {
	for n, start := range m.starts {
		for i := range m.known[n] {
			if m.states[start+int64(i)] == batch.Absent {
				return true
			}
		}
	}
	return false
}

func (m *model) closeInput() {
	m.closed = true
	m.complete()
}

func (m *model) complete() bool {
	if m.completed || !m.closed || m.stats().Queued > 0 {
		return false
	}
	m.completed = true
	return true
}

func (m *model) nextRound(parent int64, round int, children []batch.Child) {
	if round <= m.children[parent].Round {
		return
	}
	recorded := batch.Children{Round: round, Indexes: map[batch.Child]int64{}}
	for _, c := range children {
		if _, twice := recorded.Indexes[c]; twice {
			continue
		}
		recorded.Indexes[c] = m.next
		m.states[m.next] = batch.Queued
		m.given = append(m.given, m.next)
		m.next++
	}
	m.children[parent] = recorded
}

func (m *model) stats() tasks.BatchStats {
	var b tasks.BatchStats
	counters := map[batch.State]*int64{
		batch.Queued: &b.Queued, batch.Succeeded: &b.Succeeded, batch.AlreadyGone: &b.AlreadyGone, batch.Superseded: &b.Superseded,
		batch.Dead: &b.Dead, batch.Discarded: &b.Discarded, batch.Duplicate: &b.Duplicate, batch.Rejected: &b.Rejected, batch.Cancelled: &b.Cancelled,
	}
	for _, state := range m.states {
		*counters[state]++
		b.Total++
	}
	b.Done = m.closed && b.Queued == 0
	return b
}

// last returns the last receipt of each task, in the order of the history.
func (m *model) last() []tasks.Receipt {
	latest := map[int64]int{}
	for i, r := range m.history {
		latest[r.Index] = i
	}
	var last []tasks.Receipt
	for i, r := range m.history {
		if latest[r.Index] == i {
			last = append(last, r)
		}
	}
	return last
}

// check compares the batches that the last step has touched with their models.
func (m *machine) check(rt *rapid.T) {
	for one := range m.touched {
		audit, err := m.store.Audit(m.tb.Context(), one.id)
		if !one.open {
			missing(rt, err)
			continue
		}
		if err != nil || !audit.Clean() {
			rt.Fatalf("audit: %q, %v; want it clean", audit.Problems, err)
		}
		shown, err := m.store.Show(m.tb.Context(), one.id)
		if got, want := counts(shown), one.stats(); got != want || err != nil {
			rt.Fatalf("%+v, %v; want %+v", got, err, want)
		}
		if got := !shown.CompletedAt.IsZero(); got != one.completed {
			rt.Fatalf("completed at %s; want it complete: %t", shown.CompletedAt, one.completed)
		}
		if !one.receipts {
			if audit.Receipts != -1 {
				rt.Fatalf("%d receipts; want -1, since the batch has none", audit.Receipts)
			}
			continue
		}
		if audit.Receipts != int64(len(one.history)) {
			rt.Fatalf("%d receipts; want %d", audit.Receipts, len(one.history))
		}
		history := m.bundle.receipts(m.tb, one.id, batch.ReceiptOptions{History: true})
		same(rt, "history", one.history, history)
		same(rt, "receipts", one.last(), m.bundle.receipts(m.tb, one.id, batch.ReceiptOptions{}))
	}
	clear(m.touched)
}

// same requires these receipts in this order, none recorded earlier than the one
// before it.
func same(rt *rapid.T, what string, want, got []tasks.Receipt) {
	var last time.Time
	for i := range got {
		if got[i].At.Before(last) {
			rt.Fatalf("%s: receipt %d was recorded at %s; want no time before %s", what, i, got[i].At, last)
		}
		last, got[i].At = got[i].At, time.Time{}
	}
	if !slices.Equal(want, got) {
		rt.Fatalf("%s (-want +got):\n%s", what, cmp.Diff(want, got))
	}
}
