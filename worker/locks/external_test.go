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

	"github.com/redis/go-redis/v9"

	enqueuelocks "github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/locks/source"
)

// fakeList is a database of locks.
type fakeList struct {
	locks  []tasks.Lock
	rows   []error // after the locks
	states map[tasks.LockID]source.LockState
	fail   error
	slow   time.Duration // how long a query takes

	mu      sync.Mutex
	queries []int // how many locks each was about
}

func (f *fakeList) Kind() tasks.SourceKind { return tasks.SourceSQL }
func (f *fakeList) Close() error           { return nil }

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

func (f *fakeList) Lookup(_ context.Context, ids []tasks.LockID) ([]source.LockState, error) {
	if f.slow > 0 {
		time.Sleep(f.slow) //nolint:forbidigo // in a synctest bubble
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queries = append(f.queries, len(ids))
	if f.fail != nil {
		return nil, f.fail
	}
	states := make([]source.LockState, len(ids))
	for i, id := range ids {
		states[i] = f.states[id]
	}
	return states, nil
}

// external is a source in a Redis of its own, whose clock shows epoch.
func external(t *testing.T, f *fakeList) (*External, *redis.Client) {
	t.Helper()
	rdb := redistest.Start(t).Client()
	rdb.AddHook(&redisHook{})
	return NewExternal(f, enqueuelocks.NewSweptStore(rdb, f.Kind())), rdb
}

// expired returns lock n, which has been expired for so long at epoch.
func expired(n int, ago time.Duration) tasks.Lock {
	return tasks.Lock{UserID: "u", LockID: lockName(n), ExpiresAt: epoch.Add(-ago)}
}

func stats(t *testing.T, e *External, limit int64) (is Stats, oldest []tasks.Lock) {
	t.Helper()
	is, err := e.Stats(t.Context(), 2*time.Minute, limit)
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

func TestExternal_Stats(t *testing.T) {
	t.Parallel()
	bad := &source.RowError{Row: 7, Err: errors.New("is NULL")}
	f := &fakeList{
		locks: []tasks.Lock{expired(1, 5*time.Minute), expired(2, time.Hour), expired(3, 2*time.Minute), expired(4, 2*time.Minute-1), expired(5, -time.Hour), expired(6, 9*time.Minute)},
		rows:  []error{bad, &source.RowError{Row: 8, Err: errors.New("is empty")}},
	}
	e, rdb := external(t, f)
	is, oldest := stats(t, e, 100)
	if is.Total != 6 || is.Stale != 4 || is.Unreadable != 2 || !errors.Is(is.FirstUnreadable, bad) {
		t.Errorf("%+v; want 6, of which 4 are stale, and 2 unreadable, of which the first is in row 7", is)
	}
	if want := []tasks.Lock{expired(2, time.Hour), expired(6, 9*time.Minute), expired(1, 5*time.Minute), expired(3, 2*time.Minute)}; !slices.Equal(oldest, want) {
		t.Errorf("the oldest are %v; want %v", oldest, want)
	}
	if err := e.MarkSwept(t.Context(), oldest[:3]); err != nil {
		t.Fatal(err)
	}
	if is, oldest := stats(t, e, 100); is.Total != 3 || is.Stale != 1 || !slices.Equal(oldest, []tasks.Lock{expired(3, 2*time.Minute)}) {
		t.Errorf("after a sweep: %+v, %v; want 3, of which lock 3 is stale", is, oldest)
	}
	f.locks[1] = expired(2, 10*time.Minute) // renewed since, and stale again
	if is, oldest := stats(t, e, 100); is.Stale != 2 || oldest[0] != f.locks[1] {
		t.Errorf("after a renewal: %+v, %v; want it stale again", is, oldest)
	}
	const key = "{kooworker:locks}:listed:sql"
	for _, member := range rdb.ZRange(t.Context(), key, 0, -1).Val() {
		rdb.ZIncrBy(t.Context(), key, -float64((90 * time.Minute).Milliseconds()), member) // last seen then
	}
	for _, c := range []struct {
		keep    time.Duration
		dropped int64
	}{{2 * time.Hour, 0}, {time.Hour, 3}} {
		if dropped, err := e.Drop(t.Context(), c.keep); err != nil || dropped != c.dropped {
			t.Errorf("kept for %s: %d dropped, %v; want %d", c.keep, dropped, err, c.dropped)
		}
	}
}

func TestExternal_StatsKeepsTheOldest(t *testing.T) {
	t.Parallel()
	const n = 20_000
	f := &fakeList{}
	for i := range n {
		f.locks = append(f.locks, expired(i, 3*time.Minute+time.Duration(i*7919%n)*time.Second))
	}
	e, _ := external(t, f)
	want := slices.SortedFunc(slices.Values(f.locks), func(a, b tasks.Lock) int { return a.ExpiresAt.Compare(b.ExpiresAt) })
	for _, limit := range []int64{1, 100, 600, n, 1 << 62} {
		is, oldest := stats(t, e, limit)
		if is.Total != n || is.Stale != n || !slices.Equal(oldest, want[:min(limit, n)]) {
			t.Errorf("at most %d: %+v, %d are yielded; want the oldest of %d", limit, is, len(oldest), n)
		}
	}
}

func TestExternal_StatsOfALockThatIsListedTwice(t *testing.T) {
	t.Parallel()
	f := &fakeList{locks: []tasks.Lock{expired(1, time.Hour), expired(2, 5*time.Minute), expired(1, 3*time.Minute)}}
	e, _ := external(t, f)
	is, oldest := stats(t, e, 100)
	if want := []tasks.Lock{f.locks[1], f.locks[2]}; is.Total != 2 || is.Stale != 2 || !slices.Equal(oldest, want) {
		t.Errorf("%+v, %v; want %v, each with its latest expiry", is, oldest, want)
	}
}

func TestExternal_StatsOfAListThatBreaksOff(t *testing.T) {
	t.Parallel()
	broken := errors.New("the connection broke")
	e, _ := external(t, &fakeList{locks: []tasks.Lock{expired(1, time.Hour)}, rows: []error{broken}})
	_, err := e.Stats(t.Context(), 0, 10)
	if _, ok := errors.AsType[*ListError](err); !ok || !errors.Is(err, broken) {
		t.Errorf("%v; want a ListError", err)
	}
}

func TestExternal_Lookup(t *testing.T) {
	t.Parallel()
	swept := tasks.Lock{UserID: "u", LockID: "l", ExpiresAt: epoch}
	release := tasks.LockRelease{UserID: "u", LockID: "l", Evidence: tasks.SweepEvidence{Source: tasks.SourceSQL, ExpiredAt: epoch}}
	f := &fakeList{}
	e, _ := external(t, f)
	for name, c := range map[string]struct {
		state   source.LockState
		refused string
		removed bool // from what was swept
	}{
		"as it was":               {source.LockState{Found: true, ExpiresAt: epoch}, "", false},
		"set back":                {source.LockState{Found: true, ExpiresAt: epoch.Add(-time.Second)}, "", false},
		"renewed":                 {source.LockState{Found: true, ExpiresAt: epoch.Add(1)}, "renewed", false},
		"gone":                    {source.LockState{}, "not listed", false},
		"unreadable":              {source.LockState{Found: true, Err: &source.RowError{Row: 3, Err: errors.New("is NULL")}}, "row 3: is NULL", true},
		"one row unreadable":      {source.LockState{Found: true, ExpiresAt: epoch, Err: &source.RowError{Row: 3, Err: errors.New("is NULL")}}, "row 3", true},
		"renewed, and unreadable": {source.LockState{Found: true, ExpiresAt: epoch.Add(1), Err: &source.RowError{Row: 3, Err: errors.New("is NULL")}}, "row 3", true},
	} {
		f.states = map[tasks.LockID]source.LockState{swept.ID(): c.state}
		if err := e.MarkSwept(t.Context(), []tasks.Lock{swept}); err != nil {
			t.Fatal(err)
		}
		refused, err := e.Lookup(t.Context(), release)
		if err != nil || (refused == "") != (c.refused == "") || !strings.Contains(refused, c.refused) {
			t.Errorf("%s: refused with %q, %v; want %q", name, refused, err, c.refused)
		}
		if marked, err := e.swept.AlreadySwept(t.Context(), []tasks.Lock{swept}); err != nil || marked[0] == c.removed {
			t.Errorf("%s: it counts as swept: %v, %v; want %t", name, marked, err, !c.removed)
		}
	}
}

// While one query is under way the next lookups gather.
func TestLookup_Gathers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const n = 250
		f := &fakeList{slow: 10 * time.Millisecond, states: map[tasks.LockID]source.LockState{}}
		for i := range n {
			f.states[tasks.LockID{UserID: "u", LockID: lockName(i)}] = source.LockState{Found: true, ExpiresAt: epoch.Add(time.Duration(i))}
		}
		b := newLookupBatcher(f)
		var wg sync.WaitGroup
		for i := range n {
			id := tasks.LockID{UserID: "u", LockID: lockName(i)}
			wg.Go(func() {
				time.Sleep(time.Millisecond) //nolint:forbidigo // in a synctest bubble; all at once
				if state, err := b.lookup(t.Context(), id); err != nil || !state.ExpiresAt.Equal(epoch.Add(time.Duration(i))) {
					t.Errorf("%s: %+v, %v; want its own state", id.LockID, state, err)
				}
			})
		}
		wg.Wait()
		total := 0
		for _, k := range f.queries {
			if total += k; k > maxLookups {
				t.Errorf("%d locks in one query; want at most %d", k, maxLookups)
			}
		}
		if total != n || len(f.queries) > 4 {
			t.Errorf("queries about %v locks; want %d in few queries", f.queries, n)
		}
	})
}

// A caller that gives up does not wait, and does not harm the next one.
func TestLookup_GivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newLookupBatcher(&fakeList{slow: time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := b.lookup(ctx, tasks.LockID{LockID: "l"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v; want the error of its context", err)
		}
		if _, err := b.lookup(t.Context(), tasks.LockID{LockID: "l"}); err != nil {
			t.Errorf("the next lookup: %v; want an answer", err)
		}
	})
}

func TestLookup_AListThatFailsCoolsDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeList{fail: errors.New("no connection")}
		b := newLookupBatcher(f)
		for i := range 1000 {
			if _, err := b.lookup(t.Context(), tasks.LockID{LockID: fmt.Sprint(i)}); !errors.Is(err, f.fail) {
				t.Fatalf("%v; want the error of the list", err)
			}
			time.Sleep(10 * time.Millisecond) //nolint:forbidigo // in a synctest bubble
		}
		if len(f.queries) > 3 {
			t.Errorf("%d queries in 10 s; want at most 3", len(f.queries))
		}
		f.fail = nil
		time.Sleep(listCooldown) //nolint:forbidigo // in a synctest bubble
		if _, err := b.lookup(t.Context(), tasks.LockID{LockID: "l"}); err != nil {
			t.Errorf("after the list works again: %v", err)
		}
	})
}

// While one query tries a list that has failed, the other lookups do not wait for
// its answer.
func TestLookup_NobodyWaitsForATrial(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeList{fail: errors.New("no connection"), slow: lookupTimeout}
		b := newLookupBatcher(f)
		if _, err := b.lookup(t.Context(), tasks.LockID{LockID: "l"}); !errors.Is(err, f.fail) || errors.Is(err, errCoolingDown) {
			t.Fatalf("%v; want the error of the list", err)
		}
		time.Sleep(listCooldown + 1) //nolint:forbidigo // in a synctest bubble
		var trial sync.WaitGroup
		trial.Go(func() {
			if _, err := b.lookup(t.Context(), tasks.LockID{LockID: "l"}); !errors.Is(err, f.fail) || errors.Is(err, errCoolingDown) {
				t.Errorf("the trial: %v; want the error of the list", err)
			}
		})
		synctest.Wait()
		began := time.Now()
		for range 10 {
			if _, err := b.lookup(t.Context(), tasks.LockID{LockID: "l"}); !errors.Is(err, errCoolingDown) || !errors.Is(err, f.fail) {
				t.Errorf("during the trial: %v; want errCoolingDown, and the error of the list", err)
			}
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("during the trial a lookup takes %s; want its error at once", took)
		}
		trial.Wait()
		if !slices.Equal(f.queries, []int{1, 1}) {
			t.Errorf("queries about %v locks; want two about one", f.queries)
		}
	})
}
