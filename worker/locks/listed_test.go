package locks

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/locks/source"
)

// fakeList is a list, and the notes of what was swept of it.
type fakeList struct {
	locks  []tasks.Lock
	rows   []error // after the locks
	sights map[tasks.LockID]source.LockState
	fail   error
	slow   time.Duration // of a look

	mu      sync.Mutex
	looks   []int // how many locks each was about
	noted   map[tasks.Lock]bool
	removed []tasks.Lock
	kept    time.Duration
}

func (f *fakeList) Kind() tasks.Source { return tasks.SourceSQL }
func (f *fakeList) Close() error       { return nil }

func (f *fakeList) Locks(context.Context) iter.Seq2[tasks.Lock, error] {
	return func(yield func(tasks.Lock, error) bool) {
		for _, l := range f.locks {
			if !yield(l, nil) {
				return
			}
		}
		for _, err := range f.rows {
			if !yield(tasks.Lock{}, err) {
				return
			}
		}
	}
}

func (f *fakeList) Lookup(_ context.Context, names []tasks.LockID) ([]source.LockState, error) {
	if f.slow > 0 {
		time.Sleep(f.slow) //nolint:forbidigo // in a synctest bubble
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks = append(f.looks, len(names))
	if f.fail != nil {
		return nil, f.fail
	}
	sights := make([]source.LockState, len(names))
	for i, name := range names {
		sights[i] = f.sights[name]
	}
	return sights, nil
}

func (f *fakeList) Now(context.Context) (time.Time, error) { return epoch, nil }

func (f *fakeList) Swept(_ context.Context, listed []tasks.Lock) ([]bool, error) {
	swept := make([]bool, len(listed))
	for i, l := range listed {
		swept[i] = f.noted[l]
	}
	return swept, nil
}

func (f *fakeList) Note(_ context.Context, swept []tasks.Lock) error {
	if f.noted == nil {
		f.noted = make(map[tasks.Lock]bool)
	}
	for _, l := range swept {
		f.noted[l] = true
	}
	return nil
}

func (f *fakeList) Remove(_ context.Context, swept tasks.Lock) error {
	f.removed = append(f.removed, swept)
	return nil
}

func (f *fakeList) Attend(context.Context, time.Duration) error { return nil }

func (f *fakeList) Drop(_ context.Context, keep time.Duration) (int64, error) {
	f.kept = keep
	return 0, nil
}

// expired returns lock n, which has expired so long ago.
func expired(n int, ago time.Duration) tasks.Lock {
	return tasks.Lock{UserID: "u", LockID: lockName(n), ExpiresAt: epoch.Add(-ago)}
}

func survey(t *testing.T, f *fakeList, most int64) (is tasks.Survey, oldest []tasks.Lock) {
	t.Helper()
	is, err := NewExternal(f, f).Survey(t.Context(), 2*time.Minute, most)
	if err != nil {
		t.Fatal(err)
	}
	for l, err := range is.Oldest {
		if err != nil {
			t.Fatal(err)
		}
		oldest = append(oldest, l)
	}
	return is, oldest
}

func TestAListIsSurveyed(t *testing.T) {
	t.Parallel()
	bad := &source.RowError{Row: 7, Err: errors.New("is NULL")}
	f := &fakeList{
		locks: []tasks.Lock{expired(1, 5*time.Minute), expired(2, time.Hour), expired(3, 2*time.Minute), expired(4, 2*time.Minute-1), expired(5, -time.Hour), expired(6, 9*time.Minute)},
		rows:  []error{bad, &source.RowError{Row: 8, Err: errors.New("is empty")}},
	}
	is, oldest := survey(t, f, 100)
	if is.Total != 6 || is.Stale != 4 || is.Unreadable != 2 || !errors.Is(is.FirstUnreadable, bad) {
		t.Errorf("%+v", is)
	}
	if want := []tasks.Lock{expired(2, time.Hour), expired(6, 9*time.Minute), expired(1, 5*time.Minute), expired(3, 2*time.Minute)}; !slices.Equal(oldest, want) {
		t.Errorf("the oldest are %v; want %v", oldest, want)
	}
	l := NewExternal(f, f)
	if err := l.Swept(t.Context(), oldest[:3]); err != nil {
		t.Fatal(err)
	}
	if is, oldest := survey(t, f, 100); is.Total != 3 || is.Stale != 1 || !slices.Equal(oldest, []tasks.Lock{expired(3, 2*time.Minute)}) {
		t.Errorf("after a sweep: %+v, %v", is, oldest)
	}
	f.locks[1] = expired(2, 10*time.Minute) // renewed since, and stale again
	if is, oldest := survey(t, f, 100); is.Stale != 2 || oldest[0] != f.locks[1] {
		t.Errorf("after a renewal: %+v, %v", is, oldest)
	}
	if _, err := l.Drop(t.Context(), time.Hour); err != nil || f.kept != time.Hour {
		t.Errorf("kept for %s, %v", f.kept, err)
	}
}

func TestTheOldestOfManyAreKept(t *testing.T) {
	t.Parallel()
	const n = 20_000
	f := &fakeList{}
	for i := range n {
		f.locks = append(f.locks, expired(i, 3*time.Minute+time.Duration(i*7919%n)*time.Second))
	}
	want := slices.SortedFunc(slices.Values(f.locks), func(a, b tasks.Lock) int { return a.ExpiresAt.Compare(b.ExpiresAt) })
	for _, most := range []int64{1, 100, 600, n, 1 << 62} {
		is, oldest := survey(t, f, most)
		if is.Total != n || is.Stale != n || !slices.Equal(oldest, want[:min(most, n)]) {
			t.Errorf("of %d: %+v, %d", most, is, len(oldest))
		}
	}
}

func TestOfALockThatIsListedTwiceTheLatestExpiryCounts(t *testing.T) {
	t.Parallel()
	f := &fakeList{locks: []tasks.Lock{expired(1, time.Hour), expired(2, 5*time.Minute), expired(1, 3*time.Minute)}}
	is, oldest := survey(t, f, 100)
	if want := []tasks.Lock{f.locks[1], f.locks[2]}; is.Total != 2 || is.Stale != 2 || !slices.Equal(oldest, want) {
		t.Errorf("%+v, %v; want %v", is, oldest, want)
	}
}

func TestAListThatBreaksOffSaysSo(t *testing.T) {
	t.Parallel()
	broken := errors.New("the connection broke")
	f := &fakeList{locks: []tasks.Lock{expired(1, time.Hour)}, rows: []error{broken}}
	_, err := NewExternal(f, f).Survey(t.Context(), 0, 10)
	if failed, ok := errors.AsType[*ListError](err); !ok || failed.Source != tasks.SourceSQL || !errors.Is(err, broken) {
		t.Errorf("%v; want a ListError", err)
	}
}

func TestALookBeforeTheRelease(t *testing.T) {
	t.Parallel()
	release := tasks.LockRelease{UserID: "u", LockID: "l", Evidence: tasks.SweepEvidence{Source: tasks.SourceSQL, ExpiredAt: epoch}}
	for name, c := range map[string]struct {
		sight   source.LockState
		refused string
		removed int
	}{
		"as it was":   {source.LockState{Found: true, ExpiresAt: epoch}, "", 0},
		"put back":    {source.LockState{Found: true, ExpiresAt: epoch.Add(-time.Second)}, "", 0},
		"renewed":     {source.LockState{Found: true, ExpiresAt: epoch.Add(1)}, "renewed", 0},
		"gone":        {source.LockState{}, "not listed", 0},
		"unreadable":  {source.LockState{Found: true, Err: &source.RowError{Row: 3, Err: errors.New("is NULL")}}, "row 3: is NULL", 1},
		"half so":     {source.LockState{Found: true, ExpiresAt: epoch, Err: &source.RowError{Row: 3, Err: errors.New("is NULL")}}, "row 3", 1},
		"both counts": {source.LockState{Found: true, ExpiresAt: epoch.Add(1), Err: &source.RowError{Row: 3, Err: errors.New("is NULL")}}, "row 3", 1},
	} {
		f := &fakeList{sights: map[tasks.LockID]source.LockState{{UserID: "u", LockID: "l"}: c.sight}}
		refused, err := NewExternal(f, f).Lookup(t.Context(), release)
		if err != nil || (refused == "") != (c.refused == "") || !strings.Contains(refused, c.refused) || len(f.removed) != c.removed {
			t.Errorf("%s: %q, %v, %d removed; want %q", name, refused, err, len(f.removed), c.refused)
		}
	}
}

// While one question is under way the next looks gather.
func TestLooksGather(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const n = 250
		f := &fakeList{slow: 10 * time.Millisecond, sights: map[tasks.LockID]source.LockState{}}
		for i := range n {
			f.sights[tasks.LockID{UserID: "u", LockID: lockName(i)}] = source.LockState{Found: true, ExpiresAt: epoch.Add(time.Duration(i))}
		}
		l := newLooks(f)
		var wg sync.WaitGroup
		for i := range n {
			name := tasks.LockID{UserID: "u", LockID: lockName(i)}
			wg.Go(func() {
				time.Sleep(time.Millisecond) //nolint:forbidigo // in a synctest bubble; all at once
				if sight, err := l.at(t.Context(), name); err != nil || !sight.ExpiresAt.Equal(epoch.Add(time.Duration(i))) {
					t.Errorf("%s: %+v, %v", name.LockID, sight, err)
				}
			})
		}
		wg.Wait()
		total := 0
		for _, k := range f.looks {
			if total += k; k > looksTogether {
				t.Errorf("%d in one question", k)
			}
		}
		if total != n || len(f.looks) > 4 {
			t.Errorf("%v; want %d in few questions", f.looks, n)
		}
	})
}

// Who has hung up is not waited for, and harms nobody.
func TestALookThatIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeList{slow: time.Second}
		l := newLooks(f)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := l.at(ctx, tasks.LockID{LockID: "l"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		if _, err := l.at(t.Context(), tasks.LockID{LockID: "l"}); err != nil {
			t.Errorf("%v", err)
		}
	})
}

func TestAListThatFailsIsLeftAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeList{fail: errors.New("no connection")}
		l := newLooks(f)
		for i := range 1000 {
			if _, err := l.at(t.Context(), tasks.LockID{LockID: fmt.Sprint(i)}); !errors.Is(err, f.fail) {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond) //nolint:forbidigo // in a synctest bubble
		}
		if len(f.looks) > 3 {
			t.Errorf("it was asked %d times in 10 s", len(f.looks))
		}
		f.fail = nil
		time.Sleep(lookPause) //nolint:forbidigo // in a synctest bubble
		if _, err := l.at(t.Context(), tasks.LockID{LockID: "l"}); err != nil {
			t.Errorf("after it works again: %v", err)
		}
	})
}
