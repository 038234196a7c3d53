package locks

import (
	"fmt"
	"strings"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// DefaultTTL is how long a lock lives after its creation or renewal, as the vendor
// documents it.
const DefaultTTL = 10 * time.Minute

// MaxExpiryOffset is how far from now an expiry may be, in either direction. An
// expiry that is further away is a mistake, such as seconds taken for
// milliseconds: the lock would be swept at once, or never.
const MaxExpiryOffset = 365 * 24 * time.Hour

// member is how the ledger writes a lock. Neither id contains a space.
func member(id tasks.LockID) string { return id.UserID + " " + id.LockID }

// Lock is a lock that the ledger knows.
//
// Its expiry is in whole milliseconds by Redis' clock.
type Lock struct {
	tasks.Lock
	// Swept: its release is enqueued.
	Swept bool
}

// UnreadableError means that the ledger contains what this package did not write.
type UnreadableError struct{ Member, Expiry string }

// Error implements error.
func (e *UnreadableError) Error() string {
	return fmt.Sprintf("locks: the ledger contains %.200q with the expiry %.40q, which this package did not write", e.Member, e.Expiry)
}

// parseLock reads a member of the ledger and its score.
func parseLock(member, score string) (tasks.Lock, error) {
	user, lock, ok := strings.Cut(member, " ")
	var ms int64
	if _, err := fmt.Sscan(score, &ms); !ok || err != nil {
		return tasks.Lock{}, &UnreadableError{member, score}
	}
	return tasks.Lock{UserID: user, LockID: lock, ExpiresAt: time.UnixMilli(ms).UTC()}, nil
}

// TrackRequest is what a holder says of its lock.
type TrackRequest struct {
	UserID, LockID string
	// ExpiresIn is how long the lock lives from now, by Redis' clock. Default
	// DefaultTTL.
	ExpiresIn time.Duration
	// ExpiresAt, if it is set, says when the lock expires, and ExpiresIn is
	// ignored. The clock that it comes from should be right.
	ExpiresAt time.Time
}

// ID returns the lock's name.
func (r TrackRequest) ID() tasks.LockID { return tasks.LockID{UserID: r.UserID, LockID: r.LockID} }

// row returns the lock's member, 1 if the expiry counts from now and else 0, and
// the expiry in milliseconds.
func (r TrackRequest) row() ([]any, error) {
	if err := r.ID().Validate(); err != nil {
		return nil, err
	}
	switch {
	case !r.ExpiresAt.IsZero():
		return []any{member(r.ID()), 0, millisAt(r.ExpiresAt)}, nil
	case r.ExpiresIn < 0:
		return nil, fmt.Errorf("lock %s: it cannot expire in %s", r.LockID, r.ExpiresIn)
	case r.ExpiresIn == 0:
		r.ExpiresIn = DefaultTTL
	}
	return []any{member(r.ID()), 1, millisUp(r.ExpiresIn)}, nil
}

// millisAt returns a time in milliseconds, rounded up.
func millisAt(t time.Time) int64 { return t.Add(time.Millisecond - 1).UnixMilli() }

// millisUp returns a duration in milliseconds, rounded up.
func millisUp(d time.Duration) int64 {
	ms := d.Milliseconds()
	if time.Duration(ms)*time.Millisecond < d {
		ms++
	}
	return ms
}

// Status is the ledger's answer about one lock. The set is closed.
type Status string

// Answers of Track and Renew. After the first three no sweep has the lock released
// before the requested expiry.
const (
	// Tracked: the ledger did not know the lock, and does now.
	Tracked Status = "tracked"
	// Renewed: the lock's expiry is later now. Claim also answers so: the ledger
	// knows a later expiry, and the lock must not be released.
	Renewed Status = "renewed"
	// Unchanged: the expiry that the ledger knows is the same, or later.
	Unchanged Status = "unchanged"
	// Swept: the lock's release is enqueued, and the requested expiry is no later
	// than the one that the sweep has seen. Nothing has changed.
	Swept Status = "swept"
	// Releasing: a worker may be releasing the lock right now. Nothing has changed.
	// The holder should assume that the lock is lost, or ask KooDrive.
	Releasing Status = "releasing"
	// Refused: the expiry is further away than MaxExpiryOffset. Nothing has changed.
	Refused Status = "refused"
)

// Further answers of Forget and Claim.
const (
	// Forgotten: the ledger does not know the lock any more. Claim answers so if
	// the ledger does not know the lock: it must not be released.
	Forgotten Status = "forgotten"
	// Unknown: the ledger did not know the lock.
	Unknown Status = "unknown"
	// Claimed: the lock may be released until the claim ends.
	Claimed Status = "claimed"
)
