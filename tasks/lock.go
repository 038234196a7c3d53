package tasks

import "time"

// Lock is a backup lock that somebody holds, or held.
type Lock struct {
	// UserID and LockID are those of LockRelease.
	UserID, LockID string
	// ExpiresAt is when its holder has to have renewed it.
	ExpiresAt time.Time
}
