package deadletter_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// parkMixed parks n letters of three reasons, two kinds, five users and three batches, one
// after the other, and returns their IDs, the latest first.
func (b *bundle) parkMixed(t *testing.T, n int) (ids []string) {
	t.Helper()
	for i := range n {
		l := letter(t, fmt.Sprint("u", i%5), fmt.Sprint(i), tasks.Intent{})
		l.Reason = []tasks.Reason{tasks.Forbidden, tasks.Invalid, tasks.Upstream}[i%3]
		l.Error = string(l.Reason) + ": x"
		if i%4 == 0 {
			l.Kind = tasks.KindLockRelease
		}
		if i%2 == 0 {
			l.Batch = fmt.Sprint("b-", i%3)
		}
		if err := b.store.Park(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, l.ID)
	}
	slices.Reverse(ids)
	b.awaitParked(t, n)
	return ids
}

// TestPage_EachFilter turns the pages of many filters, and compares with what reading everything
// finds: each letter once, the latest first, across reasons and kinds.
func TestPage_EachFilter(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work(t, func(deadletter.Letter) error { return failure{"upstream: again", far} })
	const n = 700
	latest := b.parkMixed(t, n)
	filters := []deadletter.Filter{
		{}, {Reasons: []tasks.Reason{tasks.Invalid}}, {Reasons: []tasks.Reason{tasks.Invalid, tasks.Upstream}}, {Kinds: []tasks.Kind{tasks.KindLockRelease}},
		{Kinds: []tasks.Kind{tasks.KindLockRelease}, Reasons: []tasks.Reason{tasks.Forbidden}}, {UserID: "u3"}, {Batch: "b-1"},
		{UserID: "u3", Reasons: []tasks.Reason{tasks.Forbidden}}, {Batch: "b-1", Reasons: []tasks.Reason{tasks.Upstream}}, {UserID: "nobody"},
		{DeadAfter: time.Now().Add(-time.Minute)}, {DeadBefore: time.Now().Add(-time.Minute)}, {IDs: slices.Clone(latest[:7])},
	}
	check := func(what string) {
		t.Helper()
		for _, f := range filters {
			matching := map[string]bool{}
			for _, l := range b.list(t, deadletter.Filter{}) {
				if b.matches(f, l) {
					matching[l.ID] = true
				}
			}
			var got []string
			var at deadletter.Position
			for first := true; first || !at.IsZero(); first = false {
				page, err := b.store.Page(t.Context(), f, at, 33, time.Minute)
				if err != nil {
					t.Fatal(err)
				}
				if len(page.Letters) > 33 || !page.Next.IsZero() && len(page.Letters) < 33 {
					t.Errorf("%s, %+v: a page of %d letters, with a next one: %v; want 33", what, f, len(page.Letters), !page.Next.IsZero())
				}
				for _, l := range page.Letters {
					got = append(got, l.ID)
				}
				if at, err = deadletter.ParsePosition(page.Next.String()); err != nil {
					t.Fatal(err)
				}
			}
			want := slices.DeleteFunc(slices.Clone(latest), func(id string) bool { return !matching[id] })
			if len(f.IDs) > 0 {
				slices.Sort(want)
				slices.Reverse(want)
			}
			if diff := cmp.Diff(want, got); len(want)+len(got) > 0 && diff != "" {
				t.Errorf("%s, %+v: %d letters on all pages; want %d (-want +got):\n%.2000s", what, f, len(got), len(want), diff)
			}
			count, err := b.store.Count(t.Context(), f, deadletter.Position{}, time.Minute)
			if err != nil || int(count.Letters) != len(want) || !count.Next.IsZero() {
				t.Errorf("%s, %+v: counted %+v, %v; want %d", what, f, count, err, len(want))
			}
		}
	}
	check("parked")
	// Some die again, one after the other, of another reason: they are the latest.
	again := slices.Clone(latest[100:110])
	for _, id := range again {
		if _, err := b.store.Replay(t.Context(), deadletter.Filter{IDs: []string{id}}, deadletter.Options{}); err != nil {
			t.Fatal(err)
		}
		b.awaitParked(t, n)
	}
	slices.Reverse(again)
	latest = append(again, slices.DeleteFunc(latest, func(id string) bool { return slices.Contains(again, id) })...)
	check("replayed")
}

// matches is what a filter means, written once more.
func (b *bundle) matches(f deadletter.Filter, l deadletter.Letter) bool {
	return (len(f.Reasons) == 0 || slices.Contains(f.Reasons, l.Reason)) && (len(f.Kinds) == 0 || slices.Contains(f.Kinds, l.Kind)) &&
		(f.UserID == "" || f.UserID == l.UserID) && (f.Batch == "" || f.Batch == l.Batch) && (len(f.IDs) == 0 || slices.Contains(f.IDs, l.ID)) &&
		(f.DeadAfter.IsZero() || l.DeadAt.After(f.DeadAfter)) && (f.DeadBefore.IsZero() || l.DeadAt.Before(f.DeadBefore))
}

// TestPage_Budget has no time: each page tells at how many letters it has looked, and all of
// them together find everything.
func TestPage_Budget(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work(t, func(deadletter.Letter) error { return nil })
	const n = 900
	b.parkMixed(t, n)
	f := deadletter.Filter{Batch: "b-0", Reasons: []tasks.Reason{tasks.Invalid}} // none has both
	var at deadletter.Position
	looked, pages := int64(0), 0
	for first := true; first || !at.IsZero(); first = false {
		page, err := b.store.Page(t.Context(), f, at, 50, 0)
		if err != nil || len(page.Letters) != 0 || page.Entries != n/6 {
			t.Fatalf("%+v, %v; want no letter, of the batch's %d", page, err, n/6)
		}
		looked, pages, at = looked+page.Looked, pages+1, page.Next
	}
	if looked != n/6 || pages < 2 {
		t.Errorf("looked at %d in %d pages; want %d in several", looked, pages, n/6)
	}
}

// TestPage_Misdated has letters that name a time of death which is far from when they came: a search by
// age finds them.
func TestPage_Misdated(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work(t, func(deadletter.Letter) error { return nil })
	b.parkMixed(t, 20)
	old := letter(t, "u", "old", tasks.Intent{})
	old.DeadAt = time.Now().Add(-48 * time.Hour)
	if err := b.store.Park(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	b.awaitParked(t, 21)
	for _, f := range []deadletter.Filter{
		{DeadBefore: time.Now().Add(-24 * time.Hour)}, {DeadBefore: time.Now().Add(-24 * time.Hour), Reasons: []tasks.Reason{tasks.Forbidden}},
		{DeadBefore: time.Now().Add(-24 * time.Hour), UserID: "u"},
	} {
		page, err := b.store.Page(t.Context(), f, deadletter.Position{}, 50, time.Minute)
		if err != nil || len(page.Letters) != 1 || page.Letters[0].ID != old.ID {
			t.Errorf("%+v: %+v, %v; want the old letter", f, page.Letters, err)
		}
	}
	page, err := b.store.Page(t.Context(), deadletter.Filter{DeadAfter: time.Now().Add(-24 * time.Hour)}, deadletter.Position{}, 50, time.Minute)
	if err != nil || len(page.Letters) != 20 {
		t.Errorf("%d letters, %v; want the 20 others", len(page.Letters), err)
	}
	if res, err := b.store.Discard(t.Context(), deadletter.Filter{UserID: "u"}, deadletter.Options{}); err != nil || res.Done != 1 {
		t.Fatalf("%+v, %v", res, err)
	}
	if n := b.redis.Client().ZCard(t.Context(), "kooworker:{dead-letter}:misdated").Val(); n != 0 {
		t.Errorf("%d entries of misdated letters are left; want none", n)
	}
}

// TestEnsureIndex_EarlierVersion has letters whose only entries are those of an earlier version, which
// knew no kinds, users and batches.
func TestEnsureIndex_EarlierVersion(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work(t, func(deadletter.Letter) error { return nil })
	const n = 450
	b.parkMixed(t, n)
	rdb := b.redis.Client()
	b.dropIndex(t)
	rdb.ZAdd(t.Context(), "kooworker:{dead-letter}:reason:forbidden", redis.Z{Score: 1, Member: "x"})
	res, err := deadletter.NewStore(rdb).Replay(t.Context(), deadletter.Filter{UserID: "u2"}, deadletter.Options{DryRun: true})
	if err != nil || res.Matched != n/5 {
		t.Errorf("%+v, %v; want the user's %d letters found", res, err, n/5)
	}
	if rdb.Exists(t.Context(), "kooworker:{dead-letter}:reason:forbidden").Val() != 0 {
		t.Error("the index of the earlier version is left; want it removed")
	}
	// A worker of the earlier version parks another letter. It is found after one round of Reindex.
	lost := letter(t, "lost", "lost", tasks.Intent{})
	if err := b.store.Park(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	b.awaitParked(t, n+1)
	b.dropIndex(t)
	rdb.Set(t.Context(), "kooworker:{dead-letter}:indexed", "2", 0)
	store := deadletter.NewStore(rdb)
	added, pages := int64(0), 0
	var at deadletter.ReindexPosition
	for ; pages == 0 || at != (deadletter.ReindexPosition{}); pages++ {
		more, err := store.Reindex(t.Context(), &at)
		if err != nil {
			t.Fatal(err)
		}
		added += more
	}
	if got := b.list(t, deadletter.Filter{UserID: "lost"}); len(got) != 1 || pages < 2 || added != 2*(n+1)+n/2 {
		t.Errorf("%d letters are found, %d entries added in %d pages; want the letter, and %d entries in several", len(got), added, pages, 2*(n+1)+n/2)
	}
	if more, err := store.Reindex(t.Context(), &at); err != nil || more != 0 {
		t.Errorf("%d more entries, %v; want none", more, err)
	}
}

func (b *bundle) dropIndex(t *testing.T) {
	t.Helper()
	rdb := b.redis.Client()
	if err := rdb.Del(t.Context(), rdb.Keys(t.Context(), "kooworker:{dead-letter}:*").Val()...).Err(); err != nil {
		t.Fatal(err)
	}
}

func TestParsePosition_NotOne(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"x", "?", "MQ", "LTEuYQ", "MC5h", "ZZZZZZZZZZZZZZZZ"} {
		if at, err := deadletter.ParsePosition(text); err == nil {
			t.Errorf("%q is read as %v; want an error", text, at)
		}
	}
	if at, err := deadletter.ParsePosition(""); err != nil || !at.IsZero() {
		t.Errorf("no text: %v, %v; want the first page", at, err)
	}
}
