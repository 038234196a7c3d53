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

// Module returns the module that is backed up: what follows the @ of the lock's
// id, "" if it has none.
func (id LockID) Module() string {
	_, module, _ := strings.Cut(id.LockID, "@")
	return module
}

// Validate reports what is wrong with the ids, as a *FieldError.
func (id LockID) Validate() error {
	return LockRelease{UserID: id.UserID, LockID: id.LockID}.Validate()
}

// Lock is a backup lock that somebody holds, or held.
type Lock struct {
	// UserID and LockID are those of LockRelease.
	UserID, LockID string
	// ExpiresAt is when its holder has to have renewed it.
	ExpiresAt time.Time
}

// ID returns the lock's name.
func (l Lock) ID() LockID { return LockID{l.UserID, l.LockID} }
