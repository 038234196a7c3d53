package tasks

import (
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
<<<<<<< HEAD

// Survey counts the locks of a source, and lists the stale ones.
type Survey struct {
	// Total is the number of locks that the source knows, without those whose
	// release was enqueued: counting them would make the share of stale locks look
	// smaller than it is.
	Total int64
	// Stale is the number of locks whose holder went away.
	Stale int64
	// Oldest yields stale locks, the oldest first. It ends after an error.
	Oldest iter.Seq2[Lock, error]
	// Unreadable is the number of locks of which the source cannot tell whether
	// they are stale. They are counted neither in Total nor in Stale.
	Unreadable int64
	// FirstUnreadable says what is wrong with one of the unreadable locks.
	FirstUnreadable error
}
=======
>>>>>>> part-g
