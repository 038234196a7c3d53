package locks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	enqueuelocks "github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/locks/source"
)

// External is a Source whose locks somebody else keeps, in a file or a database.
// Unlike the ledger it cannot refuse to renew a lock while its release is under way.
type External struct {
	list    source.List
	swept   *enqueuelocks.SweptStore
	lookups *lookupBatcher
}

var _ Source = (*External)(nil)

// NewExternal returns a Source over a list and the store of its swept locks. The
// caller closes the list.
func NewExternal(list source.List, swept *enqueuelocks.SweptStore) *External {
	return &External{list: list, swept: swept, lookups: newLookupBatcher(list)}
}

// ListError means that the list could not be read to its end.
type ListError struct{ Err error }

// Error implements error.
func (e *ListError) Error() string { return e.Err.Error() }

// Unwrap returns the list's error.
func (e *ListError) Unwrap() error { return e.Err }

// Hint says what to do about it; it may be empty.
func (e *ListError) Hint() string {
	if failed, ok := errors.AsType[*source.Error](e.Err); ok {
		return failed.Hint()
	}
	return ""
}

// Kind implements Source.
func (e *External) Kind() tasks.SourceKind { return e.list.Kind() }

// Stats implements Source. It keeps at most twice limit locks in memory.
func (e *External) Stats(ctx context.Context, grace time.Duration, limit int64) (Stats, error) {
	now, err := e.swept.Now(ctx)
	if err != nil {
		return Stats{}, err
	}
	var (
		stats  Stats
		live   int64
		page   []tasks.Lock // expired ones, of which some may be swept already
		oldest = oldestLocks{limit: limit}
	)
	countPage := func() error {
		swept, err := e.swept.AlreadySwept(ctx, page)
		if err != nil {
			return err
		}
		for i, lock := range page {
			if !swept[i] {
				stats.Stale++
				oldest.add(lock)
			}
		}
		page = page[:0]
		return nil
	}
	for lock, err := range e.list.Locks(ctx) {
		if row, bad := errors.AsType[*source.RowError](err); bad {
			if stats.Unreadable++; stats.FirstUnreadable == nil {
				stats.FirstUnreadable = row
			}
			continue
		}
		if err != nil {
			return Stats{}, &ListError{err}
		}
		if lock.ExpiresAt.Add(grace).After(now) {
			live++
			continue
		}
		if page = append(page, lock); len(page) == pageSize {
			if err := countPage(); err != nil {
				return Stats{}, err
			}
		}
	}
	if err := countPage(); err != nil {
		return Stats{}, err
	}
	locks, repeated := oldest.sorted()
	stats.Stale -= repeated
	stats.Total = live + stats.Stale
	stats.Oldest = func(yield func(tasks.Lock, error) bool) {
		for _, lock := range locks {
			if !yield(lock, nil) {
				return
			}
		}
	}
	return stats, nil
}

// MarkSwept implements Source.
func (e *External) MarkSwept(ctx context.Context, swept []tasks.Lock) error {
	return e.swept.MarkSwept(ctx, swept)
}

// Drop implements Source.
func (e *External) Drop(ctx context.Context, keep time.Duration) (int64, error) {
	return e.swept.Drop(ctx, keep)
}

// Heartbeat records until ctx ends that a worker runs that can read the source. It
// ignores errors of Redis: the next heartbeat comes soon.
func (e *External) Heartbeat(ctx context.Context) {
	const every, ttl = 5 * time.Second, 20 * time.Second
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		_ = e.swept.Heartbeat(ctx, ttl)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Lookup checks a lock again, just before its release. If refused is empty the
// lock is as the sweep has seen it. Otherwise refused says why the lock must stay.
func (e *External) Lookup(ctx context.Context, t tasks.LockRelease) (refused string, err error) {
	state, err := e.lookups.lookup(ctx, tasks.LockID{UserID: t.UserID, LockID: t.LockID})
	switch {
	case err != nil:
		return "", &ListError{err}
	case state.Err != nil:
		// Forget that the lock was swept, so that a sweep releases it when it can be read
		// again. If the process dies before this line, the task runs again.
		if err := e.swept.Remove(ctx, tasks.Lock{UserID: t.UserID, LockID: t.LockID, ExpiresAt: t.Evidence.ExpiredAt}); err != nil {
			return "", err
		}
		return fmt.Sprintf("it cannot be read: %v", state.Err), nil
	case !state.Found:
		return "it is not listed any more", nil
	case state.ExpiresAt.After(t.Evidence.ExpiredAt):
		return "it was renewed", nil
	default:
		return "", nil
	}
}

// oldestLocks keeps the oldest of the locks that are added to it.
type oldestLocks struct {
	limit int64
	locks []tasks.Lock
}

func (o *oldestLocks) add(l tasks.Lock) {
	o.locks = append(o.locks, l)
	if int64(len(o.locks))/2 >= max(o.limit, pageSize) {
		o.trim()
	}
}

func (o *oldestLocks) trim() {
	slices.SortStableFunc(o.locks, func(a, b tasks.Lock) int { return a.ExpiresAt.Compare(b.ExpiresAt) })
	o.locks = o.locks[:min(int64(len(o.locks)), o.limit)]
}

// sorted returns the oldest locks. Of a lock that was added more than once it
// returns only the one with the latest expiry; repeated is the number of those
// that it leaves out.
func (o *oldestLocks) sorted() (locks []tasks.Lock, repeated int64) {
	o.trim()
	seen := make(map[tasks.LockID]bool, len(o.locks))
	for _, l := range slices.Backward(o.locks) {
		if !seen[l.ID()] {
			seen[l.ID()] = true
			locks = append(locks, l)
		}
	}
	slices.Reverse(locks)
	return locks, int64(len(o.locks) - len(locks))
}
