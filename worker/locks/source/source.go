package source

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// Source is where locks are known.
type Source interface {
	// Kind is the word for it in tasks and reports.
	Kind() tasks.Source
	// Locks yields all locks, with expiries in UTC. One that is malformed is
	// yielded as a *RowError, and the next ones follow; any other error is the
	// last, and means that the list is incomplete.
	Locks(ctx context.Context) iter.Seq2[tasks.Lock, error]
	// Lookup says how these locks are now, in their order. With an error nothing is
	// known, and none of them must be released.
	Lookup(ctx context.Context, names []tasks.LockID) ([]LockState, error)
	// Close lets go of what the source holds open.
	Close() error
}

var (
	_ Source = (*File)(nil)
	_ Source = (*SQL)(nil)
)

// LockState is what a source says of one lock.
type LockState struct {
	// Found: it is there. Else it is gone.
	Found bool
	// ExpiresAt is its expiry, in UTC: of a lock that is there more than once, the
	// latest.
	ExpiresAt time.Time
	// Err: what is there cannot be read, and the lock must not be released.
	Err *RowError
}

// add takes another row of the same lock into account.
func (s *LockState) add(expiresAt time.Time, bad *RowError) {
	s.Found = true
	if bad != nil {
		s.Err = bad
	}
	if s.ExpiresAt.Before(expiresAt) {
		s.ExpiresAt = expiresAt
	}
}

// RowError is one row that is no lock.
type RowError struct {
	// Row is counted from 1. Of a file it is the line, the header and blank ones
	// included.
	Row int
	// UserID and LockID are the row's, if these at least are well formed.
	UserID, LockID string
	// Err says what is wrong with it.
	Err error

	line bool // of a file
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

// The columns, and the members in JSONL.
const (
	userColumn   = "user_id"
	lockColumn   = "lock_id"
	expiryColumn = "expires_at"
)

// columnNames are in the order in which fields have them.
var columnNames = [...]string{userColumn, lockColumn, expiryColumn}

// readLock makes a lock of what stands in a row. expiry is called when the ids
// are well formed: an error can then say of which lock it is.
func readLock(row int, ids [2]string, expiry func() (time.Time, error)) (tasks.Lock, *RowError) {
	l := tasks.Lock{UserID: ids[0], LockID: ids[1]}
	if err := l.ID().Validate(); err != nil {
		return tasks.Lock{}, &RowError{Row: row, Err: err}
	}
	at, err := expiry()
	if err == nil {
		err = checkExpiry(at)
	}
	if err != nil {
		return tasks.Lock{}, &RowError{Row: row, UserID: l.UserID, LockID: l.LockID, Err: err}
	}
	l.ExpiresAt = at.UTC()
	return l, nil
}

// Before that year there was nothing to lock: such a time is 1970, year 1 or
// MySQL's 0000-00-00, which stand for "none" and not for "long ago".
const firstYear = 2000

func checkExpiry(at time.Time) error {
	if year := at.UTC().Year(); year < firstYear || year > 9999 {
		return &tasks.FieldError{Field: expiryColumn, Problem: fmt.Sprintf(
			"is in the year %d, which is a placeholder rather than a time; want %d to 9999, or leave such locks out", year, firstYear)}
	}
	return nil
}

// Error is what went wrong with a source as a whole.
type Error struct {
	message string
	hint    string
	cause   error // one that holds nothing secret; may be nil
}

// Error implements error.
func (e *Error) Error() string { return e.message }

// Hint says what to do about it; it may be empty.
func (e *Error) Hint() string { return e.hint }

// Unwrap returns the database's own error, the context's or the file system's.
func (e *Error) Unwrap() error { return e.cause }

// asRowError is errors.AsType for what is not worth a second result.
func asRowError(err error) *RowError {
	row, _ := errors.AsType[*RowError](err)
	return row
}
