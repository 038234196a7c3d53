package tasks

import (
	"iter"
	"strings"
	"time"
)

// LockID names a backup lock.
type LockID struct {
	// UserID and LockID are those of LockRelease.
	UserID, LockID string
}

// Module returns the module that is backed up: the text after the @ in the
// lock's id, or "" if the id has no @.
func (id LockID) Module() string {
	_, module, _ := strings.Cut(id.LockID, "@")
	return module
}

// Validate reports what is wrong with the ids, as a *FieldError.
func (id LockID) Validate() error {
	return LockRelease{UserID: id.UserID, LockID: id.LockID}.Validate()
}

// Lock is a backup lock that somebody holds or has held.
type Lock struct {
	// UserID and LockID are those of LockRelease.
	UserID, LockID string
	// ExpiresAt is the time until which its holder must renew it.
	ExpiresAt time.Time
}

// ID returns the lock's name.
func (l Lock) ID() LockID { return LockID{l.UserID, l.LockID} }

// Survey is how the locks of a source stand.
type Survey struct {
	// Total is the number of locks that it knows, but for those whose release was
	// enqueued: what is gone must not make a share of the rest look small.
	Total int64
	// Stale is the number of those whose holder went away.
	Stale int64
	// Oldest yields stale ones, the oldest first. An error is the last.
	Oldest iter.Seq2[Lock, error]
	// Unreadable is the number of those of which it cannot be told whether they
	// are stale. They are in none of the other numbers.
	Unreadable int64
	// FirstUnreadable says what is wrong with one of them.
	FirstUnreadable error
}
