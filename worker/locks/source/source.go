package source

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// List lists backup locks: a file, or the table of a database.
type List interface {
	// Kind names the source in tasks and reports.
	Kind() tasks.SourceKind
	// Locks yields all locks, with expiries in UTC. A malformed lock is yielded as
	// a *RowError, and the next locks follow. Any other error is the last, and
	// means that the list is incomplete.
	Locks(ctx context.Context) iter.Seq2[tasks.Lock, error]
	// Lookup returns the present states of these locks, in their order. With an
	// error nothing is known, and none of the locks must be released.
	Lookup(ctx context.Context, ids []tasks.LockID) ([]LockState, error)
	// Close releases what the source holds open.
	Close() error
}

var (
	_ List = (*File)(nil)
	_ List = (*SQL)(nil)
)

// LockState is what a source says about one lock.
type LockState struct {
	// Found: the source lists the lock. If not, the lock is gone.
	Found bool
	// ExpiresAt is its expiry, in UTC. If the source lists the lock more than once,
	// it is the latest one.
	ExpiresAt time.Time
	// Err: a row of the lock cannot be read, and the lock must not be released.
	Err *RowError
}

// lockStates are the states of the locks that a source lists.
type lockStates map[tasks.LockID]LockState

// add takes another row into account: a lock, or what is wrong with the row. Rows
// that name no lock have the empty id, which nobody looks up.
func (m lockStates) add(l tasks.Lock, bad *RowError) {
	id := l.ID()
	if bad != nil {
		id = tasks.LockID{UserID: bad.UserID, LockID: bad.LockID}
	}
	s := m[id]
	s.Found = true
	if bad != nil {
		s.Err = bad
	}
	if s.ExpiresAt.Before(l.ExpiresAt) {
		s.ExpiresAt = l.ExpiresAt
	}
	m[id] = s
}

// of returns the states of these locks, in their order.
func (m lockStates) of(ids []tasks.LockID) []LockState {
	states := make([]LockState, len(ids))
	for i, id := range ids {
		states[i] = m[id]
	}
	return states
}

// RowError is one row that is not a valid lock.
type RowError struct {
	// Row is counted from 1. In a file it is the line; the header and blank lines
	// count.
	Row int
	// UserID and LockID name the lock if only its expiry is wrong, or if no system gives
	// such ids. Else they are empty.
	UserID, LockID string
	// Err says what is wrong with the row.
	Err error

	line bool // the row is a line of a file
}

// Error implements error.
func (e *RowError) Error() string {
	what := "row"
	if e.line {
		what = "line"
	}
	if e.UserID != "" {
		return fmt.Sprintf("%s %d (user %s, lock %s): %v", what, e.Row, e.UserID, e.LockID, e.Err)
	}
	return fmt.Sprintf("%s %d: %v", what, e.Row, e.Err)
}

// Unwrap returns the cause.
func (e *RowError) Unwrap() error { return e.Err }

// The columns of a query. A file has the same.
const (
	userColumn   = "user_id"
	lockColumn   = "lock_id"
	expiryColumn = "expires_at"

	allColumns = userColumn + ", " + lockColumn + " and " + expiryColumn // for messages
)

// firstYear is the first year in which a lock can expire. An earlier time is 1970,
// year 1 or MySQL's 0000-00-00: a placeholder that means "none", not "long ago".
const firstYear = 2000

func checkExpiry(at time.Time) error {
	if year := at.UTC().Year(); year < firstYear || year > 9999 {
		return &tasks.FieldError{Field: expiryColumn, Problem: fmt.Sprintf(
			"is in the year %d, which is a placeholder rather than a time; want %d to 9999, or leave such locks out", year, firstYear)}
	}
	return nil
}

// Error is a failure of a whole source.
type Error struct {
	message string
	hint    string
	cause   error // must hold no secret; may be nil
}

// Error implements error.
func (e *Error) Error() string { return e.message }

// Hint says what to do about it; it may be empty.
func (e *Error) Hint() string { return e.hint }

// Unwrap returns the error of the database, the context or the file system.
func (e *Error) Unwrap() error { return e.cause }

// asRowError is errors.AsType with one result: nil if err is no RowError.
func asRowError(err error) *RowError {
	row, _ := errors.AsType[*RowError](err)
	return row
}
