package batch_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

func TestAudit_CountsStates(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.open(t, batch.Spec{})
	c := b.claim(t, id, 0, digests(input("", 10)))
	b.mark(t, id, batch.Queued, c.Index(0))
	b.mark(t, id, batch.Duplicate, c.Index(1))
	b.mark(t, id, batch.Rejected, c.Index(2), c.Index(9))
	for i, outcome := range []tasks.Outcome{tasks.Succeeded, tasks.AlreadyGone, tasks.Superseded, tasks.Dead, tasks.Discarded, tasks.Cancelled} {
		b.recordOutcomes(t, receipt(id, c.Index(3+i), outcome))
	}
	audit, err := b.store.Audit(t.Context(), id)
	if err != nil || !audit.Clean() || audit.Problems == nil || audit.Receipts != 6 {
		t.Errorf("%+v, %v; want it clean, with 6 receipts", audit, err)
	}
	want := map[string]int64{
		"queued": 1, "duplicate": 1, "rejected": 2, "succeeded": 1, "already_gone": 1, "superseded": 1, "dead": 1, "discarded": 1, "cancelled": 1,
	}
	if !maps.Equal(audit.Counted, want) {
		t.Errorf("counted %v; want %v", audit.Counted, want)
	}
	if got, want := counts(audit.Stats), (tasks.BatchStats{
		Total: 10, Queued: 1, Duplicate: 1, Rejected: 2, Succeeded: 1, AlreadyGone: 1, Superseded: 1, Dead: 1, Discarded: 1, Cancelled: 1,
	}); got != want {
		t.Errorf("%+v; want %+v", got, want)
	}
}

// Audit finds whatever somebody has changed by hand, and names it.
func TestAudit_FindsChanges(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for name, tc := range map[string]struct {
		args []any // of a Redis command; the key is inserted behind its name
		key  string
		want []string
	}{
		"a counter": {
			[]any{"HINCRBY", "succeeded", 1}, "meta",
			[]string{"the counter of succeeded is 3, but the states add up to 2"},
		},
		"the total": {
			[]any{"HINCRBY", "total", -1}, "meta",
			[]string{"the counter of total is 5, but the states add up to 6"},
		},
		"a missing counter": {
			[]any{"HDEL", "queued"}, "meta",
			[]string{"the counter of queued is 0, but the states add up to 1"},
		},
		"a state": {
			[]any{"BITFIELD", "SET", "u4", "#0", uint8(batch.Dead)}, "states",
			[]string{"the counter of succeeded is 2, but the states add up to 1", "the counter of dead is 1, but the states add up to 2"},
		},
		"a missing state": {
			[]any{"BITFIELD", "SET", "u4", "#1", 0}, "states",
			[]string{
				"the counter of total is 6, but the states add up to 5", "the counter of succeeded is 2, but the states add up to 1",
				"there are 5 receipts; want 4, for 3 outcomes and 1 revisions",
			},
		},
		"an unknown state": {
			[]any{"BITFIELD", "SET", "u4", "#5", 15}, "states",
			[]string{"the counter of queued is 1, but the states add up to 0", "1 indexes have the unknown state 15"},
		},
		"an additional state": {
			[]any{"BITFIELD", "SET", "u4", "#100", 10}, "states",
			[]string{"the counter of total is 6, but the states add up to 7", "1 indexes have the unknown state 10"},
		},
		"all states": {
			[]any{"UNLINK"}, "states",
			[]string{
				"the counter of total is 6, but the states add up to 0", "the counter of queued is 1, but the states add up to 0", "the counter of succeeded is 2, but the states add up to 0",
				"the counter of dead is 1, but the states add up to 0", "the counter of discarded is 1, but the states add up to 0", "the counter of duplicate is 1, but the states add up to 0",
				"there are 5 receipts; want 1, for 0 outcomes and 1 revisions",
			},
		},
		"a missing receipt": {
			[]any{"XTRIM", "MAXLEN", "=", 4}, "receipts",
			[]string{"there are 4 receipts; want 5, for 4 outcomes and 1 revisions"},
		},
		"an additional receipt": {
			[]any{"XADD", "*", "i", 0}, "receipts",
			[]string{"there are 6 receipts; want 5, for 4 outcomes and 1 revisions"},
		},
		"the revisions": {
			[]any{"HDEL", "revisions"}, "meta",
			[]string{"there are 5 receipts; want 4, for 4 outcomes and 0 revisions"},
		},
	} {
		id := b.open(t, batch.Spec{})
		c := b.claim(t, id, 0, digests(input("", 6)))
		b.recordOutcomes(t, receipt(id, c.Index(0), tasks.Succeeded), receipt(id, c.Index(1), tasks.Succeeded))
		b.recordOutcomes(t, receipt(id, c.Index(2), tasks.Dead), receipt(id, c.Index(3), tasks.Dead), receipt(id, c.Index(3), tasks.Discarded))
		b.mark(t, id, batch.Duplicate, c.Index(4))
		b.mark(t, id, batch.Queued, c.Index(5))
		b.stats(t, id)

		args := slices.Insert(slices.Clone(tc.args), 1, any("kooworker:{batch:"+id+"}:"+tc.key))
		if err := b.rdb.Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
		audit, err := b.store.Audit(t.Context(), id)
		if err != nil || audit.Clean() || !slices.Equal(audit.Problems, tc.want) {
			t.Errorf("%s: %v\n got %s\nwant %s", name, err, strings.Join(audit.Problems, "; "), strings.Join(tc.want, "; "))
		}
	}
}

func TestAudit_NoReceipts(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, indexes := b.closedBatch(t, batch.Spec{NoReceipts: true}, 3)
	b.recordAll(t, id, indexes, tasks.Dead)
	b.recordAll(t, id, indexes, tasks.Discarded)
	if audit, err := b.store.Audit(t.Context(), id); err != nil || !audit.Clean() || audit.Receipts != -1 {
		t.Errorf("%+v, %v; want it clean, with -1 receipts", audit, err)
	}
}

func TestAudit_UnreadableMeta(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, field := range []string{"total", "queued", "revisions", "created_at"} {
		id := b.open(t, batch.Spec{})
		if err := b.rdb.HSet(t.Context(), "kooworker:{batch:"+id+"}:meta", field, "many").Err(); err != nil {
			t.Fatal(err)
		}
		if audit, err := b.store.Audit(t.Context(), id); err == nil || !strings.Contains(err.Error(), id) {
			t.Errorf("%s: %+v, %v; want an error that names the batch", field, audit, err)
		}
	}
}
