package deadletter_test

import (
	"fmt"
	"slices"
	"testing"

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

	// Entries of letters that are gone are removed when the index is read.
	if _, err := b.store.Discard(t.Context(), deadletter.Filter{}, deadletter.Options{}); err != nil {
		t.Fatal(err)
	}
	for _, reason := range reasons {
		for range 3 {
			b.list(t, deadletter.Filter{Reasons: []tasks.Reason{reason}})
		}
		if left := b.redis.Client().ZCard(t.Context(), "kooworker:{dead-letter}:reason:"+string(reason)).Val(); left != 0 {
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
