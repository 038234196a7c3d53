package locks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/locks/source"
)

// External is a Source whose locks somebody else keeps, in a file or a database.
// It is read from the start to the end before anything is enqueued: what breaks
// half-way has done nothing.
//
// Nobody can be asked to hold a renewal back there while a release is under way,
// as the ledger does. Between the last look and the call lies a moment in which
// a renewal is not seen.
type External struct {
	list  source.Source
	notes Notes
	looks *looks
}

var _ Source = (*External)(nil)

// Notes remember which of the listed locks were swept, and ask Redis for the
// time. Package enqueue/locks has them.
type Notes interface {
	// Now is what Redis' clock shows.
	Now(ctx context.Context) (time.Time, error)
	// Swept reports for each of these, which are listed now, whether it was swept
	// with this expiry.
	Swept(ctx context.Context, listed []tasks.Lock) ([]bool, error)
	// Note notes that the releases of these are enqueued.
	Note(ctx context.Context, swept []tasks.Lock) error
	// Remove lets the next sweep take a lock again.
	Remove(ctx context.Context, swept tasks.Lock) error
	// Attend says for as long as d that a worker runs that can look at the list.
	Attend(ctx context.Context, d time.Duration) error
	// Drop drops the notes of what no sweep has seen listed for as long as keep.
	Drop(ctx context.Context, keep time.Duration) (dropped int64, err error)
}

// NewExternal returns a Source over a list, which stays the caller's to close.
func NewExternal(list source.Source, notes Notes) *External {
	return &External{list: list, notes: notes, looks: newLooks(list)}
}

// ListError means that the list could not be read to its end.
type ListError struct {
	Source tasks.Source
	Err    error
}

// Error implements error.
func (e *ListError) Error() string { return e.Err.Error() }

// Unwrap returns what the list said.
func (e *ListError) Unwrap() error { return e.Err }

// Hint says what to do about it; it may be empty.
func (e *ListError) Hint() string {
	if h, ok := errors.AsType[interface {
		error
		Hint() string
	}](e.Err); ok {
		return h.Hint()
	}
	return ""
}

// Kind implements Source.
func (l *External) Kind() tasks.Source { return l.list.Kind() }

// Survey implements Source. It holds at most twice as many locks in memory as
// are wanted.
func (l *External) Survey(ctx context.Context, grace time.Duration, most int64) (tasks.Survey, error) {
	now, err := l.notes.Now(ctx)
	if err != nil {
		return tasks.Survey{}, err
	}
	var (
		is     tasks.Survey
		page   []tasks.Lock
		oldest = oldest{most: most}
	)
	flush := func() error {
		swept, err := l.notes.Swept(ctx, page)
		if err != nil {
			return err
		}
		for i, lock := range page {
			if swept[i] {
				is.Total--
				continue
			}
			is.Stale++
			oldest.add(lock)
		}
		page = page[:0]
		return nil
	}
	for lock, err := range l.list.Locks(ctx) {
		if row, bad := errors.AsType[*source.RowError](err); bad {
			if is.Unreadable++; is.FirstUnreadable == nil {
				is.FirstUnreadable = row
			}
			continue
		}
		if err != nil {
			return tasks.Survey{}, &ListError{l.Kind(), err}
		}
		is.Total++
		if lock.ExpiresAt.Add(grace).After(now) {
			continue
		}
		if page = append(page, lock); len(page) == sweptAtOnce {
			if err := flush(); err != nil {
				return tasks.Survey{}, err
			}
		}
	}
	if err := flush(); err != nil {
		return tasks.Survey{}, err
	}
	locks, twice := oldest.sorted()
	is.Total -= twice
	is.Stale -= twice
	is.Oldest = func(yield func(tasks.Lock, error) bool) {
		for _, lock := range locks {
			if !yield(lock, nil) {
				return
			}
		}
	}
	return is, nil
}

// Swept implements Source.
func (l *External) Swept(ctx context.Context, swept []tasks.Lock) error {
	return l.notes.Note(ctx, swept)
}

// Drop implements Source.
func (l *External) Drop(ctx context.Context, keep time.Duration) (int64, error) {
	return l.notes.Drop(ctx, keep)
}

// Heartbeat tells others that a worker runs that can look, until ctx ends. What
// fails is only told too late.
func (l *External) Heartbeat(ctx context.Context) {
	const every, life = 5 * time.Second, 20 * time.Second
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		_ = l.notes.Attend(ctx, life)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Lookup looks again, just before a release. If refused is empty the lock is as
// the sweep saw it; else it says why it must stay.
func (l *External) Lookup(ctx context.Context, t tasks.LockRelease) (refused string, err error) {
	sight, err := l.looks.at(ctx, tasks.LockID{UserID: t.UserID, LockID: t.LockID})
	switch {
	case err != nil:
		return "", &ListError{l.Kind(), err}
	case sight.Err != nil:
		// Once it can be read again it is a sweep's business again. Who dies before
		// this leaves a task that runs again.
		if err := l.notes.Remove(ctx, tasks.Lock{UserID: t.UserID, LockID: t.LockID, ExpiresAt: t.Evidence.ExpiredAt}); err != nil {
			return "", err
		}
		return fmt.Sprintf("it cannot be read: %v", sight.Err), nil
	case !sight.Found:
		return "it is not listed any more", nil
	case sight.ExpiresAt.After(t.Evidence.ExpiredAt):
		return "it was renewed", nil
	default:
		return "", nil
	}
}

// oldest keeps the oldest of the locks that are added.
type oldest struct {
	most  int64
	locks []tasks.Lock
}

func (o *oldest) add(l tasks.Lock) {
	o.locks = append(o.locks, l)
	if int64(len(o.locks))/2 >= max(o.most, sweptAtOnce) {
		o.trim()
	}
}

func (o *oldest) trim() {
	slices.SortStableFunc(o.locks, func(a, b tasks.Lock) int { return a.ExpiresAt.Compare(b.ExpiresAt) })
	o.locks = o.locks[:min(int64(len(o.locks)), o.most)]
}

// sorted returns them, and how many it left out since they are there once more
// with a later expiry.
func (o *oldest) sorted() (locks []tasks.Lock, twice int64) {
	o.trim()
	seen := make(map[tasks.LockID]bool, len(o.locks))
	for _, l := range slices.Backward(o.locks) {
		name := tasks.LockID{UserID: l.UserID, LockID: l.LockID}
		if !seen[name] {
			seen[name] = true
			locks = append(locks, l)
		}
	}
	slices.Reverse(locks)
	return locks, int64(len(o.locks) - len(locks))
}
