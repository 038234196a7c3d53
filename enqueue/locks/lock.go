package locks

import (
	"fmt"
	"strings"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// DefaultTTL is how long a lock lives from its creation or renewal, by the
// vendor's word.
const DefaultTTL = 10 * time.Minute

// MaxExpiryOffset is how far from now an expiry may lie, in either direction. One
// that lies further away is seconds taken for milliseconds or the like: the
// lock would be swept at once, or never.
const MaxExpiryOffset = 365 * 24 * time.Hour

// member is how the ledger writes it. Neither id holds a space.
func member(id tasks.LockID) string { return id.UserID + " " + id.LockID }

// Lock is a lock that the ledger knows.
//
// Its expiry is in whole milliseconds by Redis' clock.
type Lock struct {
	tasks.Lock
	// Swept: its release was enqueued.
	Swept bool
}

func lockOf(member, score string) (tasks.Lock, error) {
	user, lock, ok := strings.Cut(member, " ")
	var ms int64
	if _, err := fmt.Sscan(score, &ms); !ok || err != nil {
		return tasks.Lock{}, fmt.Errorf("locks: the ledger holds %q with the expiry %q, which nobody here wrote", member, score)
	}
	return tasks.Lock{UserID: user, LockID: lock, ExpiresAt: time.UnixMilli(ms).UTC()}, nil
}

// TrackRequest is what a holder says of its lock.
type TrackRequest struct {
	UserID, LockID string
	// ExpiresIn is how long it lives from now, by Redis' clock. Default
	// DefaultLife.
	ExpiresIn time.Duration
	// ExpiresAt, if it is set, says when it expires, and ExpiresIn is not looked
	// at. The clock that it is from should be right.
	ExpiresAt time.Time
}

// ID returns the lock's name.
func (e TrackRequest) ID() tasks.LockID { return tasks.LockID{UserID: e.UserID, LockID: e.LockID} }

// row returns the lock, 1 if the expiry counts from now and else 0, and the
// expiry in milliseconds.
func (e TrackRequest) row() ([]any, error) {
	if err := e.ID().Validate(); err != nil {
		return nil, err
	}
	switch {
	case !e.ExpiresAt.IsZero():
		return []any{member(e.ID()), 0, millisAt(e.ExpiresAt)}, nil
	case e.ExpiresIn < 0:
		return nil, fmt.Errorf("lock %s: it cannot expire in %s", e.LockID, e.ExpiresIn)
	case e.ExpiresIn == 0:
		e.ExpiresIn = DefaultTTL
	}
	return []any{member(e.ID()), 1, millisUp(e.ExpiresIn)}, nil
}

// millisAt rounds a time up to milliseconds.
func millisAt(t time.Time) int64 { return t.Add(time.Millisecond - 1).UnixMilli() }

// millisUp rounds up to milliseconds.
func millisUp(d time.Duration) int64 {
	ms := d.Milliseconds()
	if time.Duration(ms)*time.Millisecond < d {
		ms++
	}
	return ms
}

// Status is what the ledger answers. The set is closed.
type Status string

// What Track and Renew answer. After the first three, and until the expiry that
// was asked for, no sweep has the lock released.
const (
	// Tracked: the ledger did not know it, and does now.
	Tracked Status = "tracked"
	// Renewed: its expiry is later now. Claim answers so too: the lock must not
	// be released, since the ledger knows of a later expiry.
	Renewed Status = "renewed"
	// Unchanged: the expiry that the ledger knows is as late, or later.
	Unchanged Status = "unchanged"
	// Swept: its release is enqueued, and this expiry is no later than the one
	// with which it was swept; nothing has changed.
	Swept Status = "swept"
	// Releasing: a worker may be releasing it right now; nothing has changed.
	// The holder should take it as lost, or ask KooDrive.
	Releasing Status = "releasing"
	// Refused: the expiry is further away than MaxDistance; nothing has changed.
	Refused Status = "refused"
)

// What else Forget and Claim answer.
const (
	// Forgotten: the ledger does not know it any more. Claim answers so where it
	// does not know it: the lock must not be released.
	Forgotten Status = "forgotten"
	// Unknown: the ledger did not know it.
	Unknown Status = "unknown"
	// Claimed: the lock may be released, until the claim is over.
	Claimed Status = "claimed"
)
