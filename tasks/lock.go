package tasks

import "time"

// Lock is a backup lock that somebody holds, or held.
type Lock struct {
	UserID string
	LockID string
	// ExpiresAt is when KooDrive lets it go by itself, to the millisecond.
	ExpiresAt time.Time
}
