package locks_test

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/tasks"
)

// collect reads a list to its end.
func collect[L any](tb testing.TB, list iter.Seq2[L, error]) []L {
	tb.Helper()
	var all []L
	for lock, err := range list {
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, lock)
	}
	return all
}

func TestCountsAndList(t *testing.T) {
	t.Parallel()
	b := setup(t)
	if got := b.counts(t, 0); got != (locks.Counts{}) {
		t.Errorf("%+v; want no locks", got)
	}
	old, older, live, gone := b.lock(id(1), -h), b.lock(id(2), -2*h), b.lock(id(3), h), b.lock(id(8), -3*h)
	for _, l := range []tasks.Lock{old, older, live, gone} {
		b.track(t, locks.TrackRequest{UserID: l.UserID, LockID: l.LockID, ExpiresAt: l.ExpiresAt})
	}
	if err := b.store.MarkSwept(t.Context(), []tasks.Lock{gone}); err != nil {
		t.Fatal(err)
	}
	for grace, want := range map[time.Duration]int64{0: 2, h - time.Second: 2, h + time.Minute: 1, 2*h + time.Minute: 0} {
		if got := b.counts(t, grace); got != (locks.Counts{Total: 4, Stale: want, Swept: 1}) {
			t.Errorf("with a grace of %s: %+v; want 4, of which %d stale and 1 swept", grace, got, want)
		}
		if got := len(collect(t, b.store.Stale(t.Context(), grace))); int64(got) != want {
			t.Errorf("with a grace of %s: %d stale; want %d", grace, got, want)
		}
	}
	for _, tc := range []struct {
		filter locks.Filter
		want   []locks.Lock
	}{
		{locks.Filter{}, []locks.Lock{{gone, true}, {older, false}, {old, false}, {live, false}}},
		{locks.Filter{UserID: "u-1"}, []locks.Lock{{gone, true}, {old, false}}},
		{locks.Filter{UserID: "nobody"}, nil},
		{locks.Filter{StaleOnly: true}, []locks.Lock{{older, false}, {old, false}}},
		{locks.Filter{StaleOnly: true, Grace: h + time.Minute}, []locks.Lock{{older, false}}},
		{locks.Filter{StaleOnly: true, UserID: "u-1"}, []locks.Lock{{old, false}}},
	} {
		if diff := cmp.Diff(tc.want, collect(t, b.store.List(t.Context(), tc.filter))); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", tc.filter, diff)
		}
	}
	for _, err := range b.store.List(t.Context(), locks.Filter{}) {
		if err != nil {
			t.Error(err)
		}
		break // List must stop
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	n := 0
	for _, err := range b.store.List(cancelled, locks.Filter{}) {
		if n++; err == nil || n > 1 {
			t.Errorf("number %d: %v; want one error", n, err)
		}
	}
}

// Locks of equal expiries are paged by the bytes of their members. Some members are
// a prefix of another.
func TestStale_PagesOfEqualExpiries(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const n = 2500
	var ids []tasks.LockID
	for i := range n {
		user := []string{"a", "B", "_", "~", "z!"}[i%5]
		ids = append(ids, tasks.LockID{UserID: user + strings.Repeat("x", i%3), LockID: fmt.Sprint("l-", i)})
	}
	entries := make([]locks.TrackRequest, n)
	for i, id := range ids {
		entries[i] = b.at(id, -h)
	}
	b.track(t, entries...)
	b.track(t, b.at(id(1), -2*h), b.at(id(2), -time.Minute), b.at(id(3), h))
	got := collect(t, b.store.Stale(t.Context(), 0))
	if len(got) != n+2 || got[0].ID() != id(1) || got[n+1].ID() != id(2) {
		t.Fatalf("%d, from %v to %v; want %d, from %v to %v", len(got), got[0], got[len(got)-1], n+2, id(1), id(2))
	}
	member := func(l tasks.Lock) string { return l.UserID + " " + l.LockID }
	if !slices.IsSortedFunc(got[1:n+1], func(a, b tasks.Lock) int { return strings.Compare(member(a), member(b)) }) {
		t.Error("locks of equal expiries are not sorted by member")
	}
	if got := collect(t, b.store.List(t.Context(), locks.Filter{})); len(got) != n+3 {
		t.Errorf("%d are listed; want each once, %d", len(got), n+3)
	}
}

// The pages are read while their locks are swept, forgotten, renewed and added.
func TestStale_WhileTheLedgerChanges(t *testing.T) {
	t.Parallel()
	for name, move := range map[string]func(*bundle, []tasks.Lock) error{
		"nothing": func(*bundle, []tasks.Lock) error { return nil },
		"swept":   func(b *bundle, page []tasks.Lock) error { return b.store.MarkSwept(t.Context(), page) },
		"forgotten": func(b *bundle, page []tasks.Lock) error {
			for _, l := range page {
				if _, err := b.store.Forget(t.Context(), []tasks.LockID{l.ID()}); err != nil {
					return err
				}
			}
			return nil
		},
		"renewed, and expired again": func(b *bundle, page []tasks.Lock) error {
			for i, l := range page {
				at := l.ExpiresAt.Add(time.Duration(i%20) * time.Minute)
				if i%2 == 0 {
					at = b.start.Add(h)
				}
				if _, err := b.store.Renew(t.Context(), []locks.TrackRequest{{UserID: l.UserID, LockID: l.LockID, ExpiresAt: at}}); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			const n = 2500
			entries := make([]locks.TrackRequest, n)
			for i := range entries {
				entries[i] = b.at(id(i), -h-time.Duration(i%3)*time.Minute)
			}
			b.track(t, entries...)
			var page []tasks.Lock
			seen := map[tasks.LockID]bool{}
			at, added := time.Time{}, 0
			for lock, err := range b.store.Stale(t.Context(), 0) {
				if err != nil {
					t.Fatal(err)
				}
				if seen[lock.ID()] {
					t.Fatalf("%v comes twice", lock)
				}
				if seen[lock.ID()] = true; lock.ExpiresAt.Before(at) {
					t.Fatalf("%v comes after one of %s", lock, at)
				}
				at = lock.ExpiresAt
				if page = append(page, lock); len(page) == 137 {
					if err := move(b, page); err != nil {
						t.Fatal(err)
					}
					page = page[:0]
					// A lock that becomes stale meanwhile is not yielded.
					if _, err := b.store.Track(t.Context(), []locks.TrackRequest{{UserID: "new", LockID: fmt.Sprint("n", added), ExpiresIn: time.Nanosecond}}); err != nil {
						t.Fatal(err)
					}
					added++
				}
			}
			for i := range n {
				if !seen[id(i)] {
					t.Errorf("%v is missing", id(i))
				}
			}
			if len(seen) != n {
				t.Errorf("%d are yielded; want %d", len(seen), n)
			}
		})
	}
}

// A member that another program wrote is an error, and not passed on.
func TestStale_ForeignMember(t *testing.T) {
	t.Parallel()
	b := setup(t)
	if err := b.rdb.Do(t.Context(), "ZADD", expiryKey, 1, "nonsense").Err(); err != nil {
		t.Fatal(err)
	}
	for lock, err := range b.store.Stale(t.Context(), 0) {
		if err == nil || !strings.Contains(err.Error(), "nonsense") {
			t.Errorf("%v, %v; want an error that names it", lock, err)
		}
	}
}

func TestDrop_InChunks(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const n = 1700
	entries, swept := make([]locks.TrackRequest, n), make([]tasks.Lock, n)
	for i := range entries {
		entries[i], swept[i] = b.at(id(i), -h), b.lock(id(i), -h)
	}
	b.track(t, entries...)
	if n, err := b.store.Drop(t.Context(), 0); n != 0 || err != nil {
		t.Errorf("dropped %d, %v; want none of those that were not swept", n, err)
	}
	if err := b.store.MarkSwept(t.Context(), swept[:n-1]); err != nil {
		t.Fatal(err)
	}
	if got, err := b.store.Drop(t.Context(), time.Minute); got != n-1 || err != nil {
		t.Errorf("dropped %d, %v; want %d", got, err, n-1)
	}
	if got := b.counts(t, 0); got != (locks.Counts{Total: 1, Stale: 1}) {
		t.Errorf("%+v; want one left", got)
	}
}

// Ended claims do not pile up if nobody calls Drop.
func TestClaim_RemovesEndedClaims(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for i := range 300 {
		b.track(t, b.at(id(i), -h))
		if _, err := b.store.Claim(t.Context(), id(i), b.start, time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.rdb.ZCard(t.Context(), claimsKey).Val(); n > 100 {
		t.Errorf("%d claims are left; want at most 100", n)
	}
}

// Wherever a page ends among locks of equal expiries, the next page begins after
// it, whether the last lock of the page is still there or not.
func TestList_AnyPageBoundary(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const page = 500
	for n := range page + 60 {
		b.track(t, b.at(tasks.LockID{UserID: "u", LockID: fmt.Sprintf("l-%04d", n)}, -h))
		if n < page {
			continue
		}
		if got := collect(t, b.store.List(t.Context(), locks.Filter{})); len(got) != n+1 {
			t.Fatalf("%d are listed; want each once, %d", len(got), n+1)
		}
		read := 0
		for lock, err := range b.store.List(t.Context(), locks.Filter{}) {
			if read++; err != nil {
				t.Fatal(err)
			}
			if read == page {
				if _, err := b.store.Forget(t.Context(), []tasks.LockID{lock.Lock.ID()}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if read != n+1 {
			t.Fatalf("%d are listed while one is forgotten; want each once, %d", read, n+1)
		}
		b.track(t, b.at(tasks.LockID{UserID: "u", LockID: fmt.Sprintf("l-%04d", page-1)}, -h))
	}
}
