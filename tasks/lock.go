package tasks

import (
	"strings"
	"time"
)

// Lock is a backup lock that somebody holds, or held.
type Lock struct {
	UserID string
	LockID string
	// ExpiresAt is when KooDrive lets it go by itself, to the millisecond.
	ExpiresAt time.Time
}

// Module is what is backed up: what follows the @ of the lock's ID, such as 102
// for the address book; "" where nothing does.
func (l Lock) Module() string {
	_, module, _ := strings.Cut(l.LockID, "@")
	return module
}
