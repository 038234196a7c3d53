package source

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// Lock is a backup lock that a source knows.
type Lock struct {
	// UserID and LockID are well formed as tasks.LockRelease says.
	UserID, LockID string
	// ExpiresAt is when the lock's holder has to have renewed it, in UTC.
	ExpiresAt time.Time
}

// Source is where locks are known.
type Source interface {
	// Locks yields all locks. One that is malformed is yielded as a *RowError,
	// and the next ones follow; any other error is the last, and means that the
	// list is incomplete.
	Locks(ctx context.Context) iter.Seq2[Lock, error]
	// Look returns the lock as it is now; found is false if it is gone. With an
	// error nothing is known, and the lock must not be released. Of a lock that
	// is there more than once it returns the one that expires last.
	Look(ctx context.Context, userID, lockID string) (l Lock, found bool, err error)
	// Close lets go of what the source holds open.
	Close() error
}

var (
	_ Source = (*File)(nil)
	_ Source = (*SQL)(nil)
)

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
func readLock(row int, ids [2]string, expiry func() (time.Time, error)) (Lock, *RowError) {
	l := Lock{UserID: ids[0], LockID: ids[1]}
	if err := (tasks.LockRelease{UserID: l.UserID, LockID: l.LockID}).Validate(); err != nil {
		return Lock{}, &RowError{Row: row, Err: err}
	}
	at, err := expiry()
	if err == nil {
		err = checkExpiry(at)
	}
	if err != nil {
		return Lock{}, &RowError{Row: row, UserID: l.UserID, LockID: l.LockID, Err: err}
	}
	l.ExpiresAt = at.UTC()
	return l, nil
}

// parseExpiry reads RFC 3339, and strictly so: time.Parse lets through what was
// cut off.
func parseExpiry(text string) (time.Time, error) {
	var at time.Time
	if err := at.UnmarshalText([]byte(text)); err != nil {
		problem := fmt.Sprintf("is %+.40q; want RFC 3339 with a time zone, such as 2026-01-31T08:30:00Z", text)
		if strings.TrimSpace(text) == "" {
			problem = "is empty"
		}
		return time.Time{}, &tasks.FieldError{Field: expiryColumn, Problem: problem}
	}
	return at, nil
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
