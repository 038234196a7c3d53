package deadletter_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// TestList_IndexFindsWhatReadingAllFinds compares the letters that the index finds
// with those that reading everything finds, after parking, replaying and discarding.
func TestList_IndexFindsWhatReadingAllFinds(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work(t, func(l deadletter.Letter) error {
		switch l.Target[len(l.Target)-1] {
		case '1':
			return nil
		case '2':
			return failure{"upstream: HTTP 503", far}
		default:
			return failure{"forbidden: again", far}
		}
	})
	const n = 1200 // more than two pages
	reasons := []tasks.Reason{tasks.Forbidden, tasks.Invalid, tasks.Upstream}
	for i := range n {
		l := letter(t, "u", fmt.Sprint(i), tasks.Intent{})
		l.Reason = reasons[i%3]
		l.Error = string(l.Reason) + ": x"
		if err := b.store.Park(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	b.awaitParked(t, n)
	check := func(what string) {
		t.Helper()
		all := b.list(t, deadletter.Filter{})
		for _, reason := range append(reasons, tasks.Rejected) {
			var want []string
			for _, l := range all {
				if l.Reason == reason {
					want = append(want, l.ID)
				}
			}
			var got []string
			for _, l := range b.list(t, deadletter.Filter{Reasons: []tasks.Reason{reason}}) {
				got = append(got, l.ID)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s, %s: the index finds %d letters; want %d", what, reason, len(got), len(want))
			}
		}
	}
	check("parked")
	// All invalid ones die of another reason, or succeed.
	res, err := b.store.Replay(t.Context(), deadletter.Filter{Reasons: []tasks.Reason{tasks.Invalid}}, deadletter.Options{})
	if err != nil || res.Done != n/3 {
		t.Fatalf("%+v, %v", res, err)
	}
	b.awaitParked(t, n-n/3/10)
	check("replayed")
	if res, err := b.store.Discard(t.Context(), deadletter.Filter{Reasons: []tasks.Reason{tasks.Upstream}, Limit: 300}, deadletter.Options{}); err != nil || res.Done != 300 {
		t.Fatalf("%+v, %v", res, err)
	}
	check("discarded")
	if entries := b.entries(t, tasks.Upstream, tasks.KindDeviceUnbind); entries != int64(len(b.list(t, deadletter.Filter{Reasons: []tasks.Reason{tasks.Upstream}}))) {
		t.Errorf("the index has %d entries; want those of discarded letters removed", entries)
	}

	if _, err := b.store.Discard(t.Context(), deadletter.Filter{}, deadletter.Options{}); err != nil {
		t.Fatal(err)
	}
	for _, reason := range reasons {
		if left := b.entries(t, reason, tasks.KindDeviceUnbind); left != 0 {
			t.Errorf("%d entries of %s are left; want none", left, reason)
		}
	}
}

// TestReplay_ByReasonsNoneTwice makes replays die of a reason that is still to be
// read: they are not replayed again.
func TestReplay_ByReasonsNoneTwice(t *testing.T) {
	t.Parallel()
	b := setup(t)
	tried := make(chan string, 1000)
	b.work(t, func(l deadletter.Letter) error {
		tried <- l.ID
		return failure{"upstream: HTTP 503", far}
	})
	const n = 100
	for i := range n {
		l := letter(t, "u", fmt.Sprint(i), tasks.Intent{})
		l.Reason, l.Error = tasks.Invalid, "invalid: x"
		if err := b.store.Park(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	b.awaitParked(t, n)
	res, err := b.store.Replay(t.Context(), deadletter.Filter{Reasons: []tasks.Reason{tasks.Invalid, tasks.Upstream}}, deadletter.Options{Rate: 200})
	if err != nil || res.Done != n {
		t.Fatalf("%+v, %v", res, err)
	}
	b.awaitParked(t, n)
	close(tried)
	ids := slices.Sorted(func(yield func(string) bool) {
		for id := range tried {
			if !yield(id) {
				return
			}
		}
	})
	if len(ids) != n || len(slices.Compact(ids)) != n {
		t.Errorf("%d replays; want one of each of the %d letters", len(ids), n)
	}
}

// TestList_ClockGoesBack has scores that are ahead of Redis' clock, as after a fail-over to a
// server whose clock is behind: a later death still has a higher score.
func TestList_ClockGoesBack(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work(t, func(deadletter.Letter) error { return failure{"invalid: again", far} })
	rdb, key := b.redis.Client(), "kooworker:{dead-letter}:reason:invalid:device:unbind"
	invalid := deadletter.Filter{Reasons: []tasks.Reason{tasks.Invalid}}
	ahead := time.Now().Add(time.Minute).UnixMicro()
	rdb.Set(t.Context(), "kooworker:{dead-letter}:clock", ahead, 0)
	for i := range 2 {
		l := letter(t, "u", fmt.Sprint(i), tasks.Intent{})
		l.Reason, l.Error = tasks.Invalid, "invalid: x"
		if err := b.store.Park(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	if scores := rdb.ZRangeWithScores(t.Context(), key, 0, -1).Val(); len(scores) != 2 || scores[0].Score != float64(ahead)+1 || scores[1].Score != float64(ahead)+2 {
		t.Errorf("the scores are %v; want those after %d", scores, ahead)
	}
	b.awaitParked(t, 2)
	if got := b.list(t, invalid); len(got) != 2 {
		t.Errorf("%d letters are listed; want both", len(got))
	}
	if latest := rdb.ZRange(t.Context(), key, -1, -1).Val(); len(latest) != 1 || latest[0] != b.list(t, deadletter.Filter{})[1].ID {
		t.Errorf("the latest is %v; want the letter that was parked last", latest)
	}
	if res, err := b.store.Replay(t.Context(), invalid, deadletter.Options{}); err != nil || res.Done != 2 {
		t.Errorf("replay: %+v, %v; want each replayed once", res, err)
	}
	b.awaitParked(t, 2)
}

// TestPruneIndex_DeletedByHand deletes letters as asynqmon's Delete does, which knows
// nothing of the index. Nobody reads the index after that.
func TestPruneIndex_DeletedByHand(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work(t, func(deadletter.Letter) error { return failure{"invalid: again", far} })
	const n = 1200 // more than two pages
	for i := range n {
		l := letter(t, "u", fmt.Sprint(i), tasks.Intent{})
		if i%4 == 0 {
			l.Reason, l.Error = tasks.Upstream, "upstream: x"
		}
		if err := b.store.Park(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	b.awaitParked(t, n)
	for i := range n / 2 {
		if err := b.inspector.DeleteTask(tasks.QueueDeadLetter, letter(t, "u", fmt.Sprint(i), tasks.Intent{}).ID); err != nil {
			t.Fatal(err)
		}
	}
	var at deadletter.IndexPosition
	removed, pages := int64(0), 0
	for pages == 0 || at != (deadletter.IndexPosition{}) {
		got, err := b.store.PruneIndex(t.Context(), &at)
		if err != nil {
			t.Fatal(err)
		}
		removed, pages = removed+got, pages+1
	}
	if removed != n || pages < 2 || pages > 12 {
		t.Errorf("%d entries are removed in %d pages; want %d, of a reason and a user, in a few", removed, pages, n)
	}
	for reason, want := range map[tasks.Reason]int{tasks.Forbidden: n / 2 * 3 / 4, tasks.Upstream: n / 2 / 4} {
		entries := b.entries(t, reason, tasks.KindDeviceUnbind)
		if found := len(b.list(t, deadletter.Filter{Reasons: []tasks.Reason{reason}})); entries != int64(want) || found != want {
			t.Errorf("%s: %d entries, %d letters are found; want %d", reason, entries, found, want)
		}
	}
}

// TestIndex_UnknownReason has a letter of a reason and a kind that this version does not
// know. It is found, and in a set that is one for all such letters.
func TestIndex_UnknownReason(t *testing.T) {
	t.Parallel()
	b := setup(t)
	l := letter(t, "u", "d", tasks.Intent{})
	l.Reason, l.Error, l.Kind = "of_tomorrow", "of_tomorrow: x", "device:rebind"
	if err := b.store.Park(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if n := b.entries(t, "unknown", deadletter.KindUnknown); n != 1 {
		t.Errorf("the set of unknown reasons and kinds has %d entries; want 1", n)
	}
	for _, f := range []deadletter.Filter{
		{Reasons: []tasks.Reason{"of_tomorrow", tasks.Invalid}}, {Kinds: []tasks.Kind{deadletter.KindUnknown}},
		{Kinds: []tasks.Kind{"device:rebind"}}, {UserID: "u"},
	} {
		if found := b.list(t, f); len(found) != 1 {
			t.Errorf("%+v: %d letters are found; want the one", f, len(found))
		}
	}
}

// entries returns how many entries the index has of a reason and a kind.
func (b *bundle) entries(t *testing.T, reason tasks.Reason, kind tasks.Kind) int64 {
	t.Helper()
	n, err := b.redis.Client().ZCard(t.Context(), fmt.Sprintf("kooworker:{dead-letter}:reason:%s:%s", reason, kind)).Result()
	if err != nil {
		t.Fatal(err)
	}
	return n
}
