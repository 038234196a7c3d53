package locks

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// Claim is the answer to whether a lock may be released.
type Claim struct {
	ID tasks.LockID
	// Status is Claimed, Renewed or Forgotten.
	Status Status
	// Seen is the expiry that the sweep has seen.
	Seen time.Time
	// FencingToken proves to Unclaim and Released that the claim is the caller's.
	// It is 0 if another claim was live; then the claim can only end by its time.
	FencingToken int64
}

// maxHold bounds how long a claim can keep a lock from being renewed.
const maxHold = time.Hour

// claimCmd claims a lock, and moves it to swept if it is not there yet. It also
// removes a few claims that have ended, so that they do not pile up if nobody
// calls Drop.
//
// KEYS -> expiry, swept, claims, names
// --
// ARGV[1] -> the member
// ARGV[2] -> the expiry in ms that the sweep has seen
// ARGV[3] -> ms to hold
// ARGV[4] -> 1 if the lock need not be in the ledger, else 0
//
// Returns the Status and the fencing token. It takes effect as a whole. A lock
// that is in swept although its expiry is in the future (the clock was set back)
// is moved back to expiry, for a later sweep.
var claimCmd = redis.NewScript(ledgerLua + `
for _, ended in ipairs(redis.call("ZRANGEBYSCORE", KEYS[3], "-inf", now, "LIMIT", 0, 4)) do
	redis.call("ZREM", KEYS[3], ended)
end
local member, seen = ARGV[1], tonumber(ARGV[2])
local tracked, swept = score(KEYS[1], member), score(KEYS[2], member)
local expiry = tracked or swept or ARGV[4] == "1" and seen
if not expiry then
	return {"forgotten", "0"}
end
if swept and expiry > now then
	redis.call("ZREM", KEYS[2], member)
	redis.call("ZADD", KEYS[1], expiry, member)
end
if expiry > seen or expiry > now then
	return {"renewed", "0"}
end
-- The token is the time at which the claim ends. Another claim gets the same token
-- only if it is taken in the same millisecond, after this one was given back.
local ends, live = now + ARGV[3], claimed(member)
local token = ends
if live then
	ends, token = math.max(ends, live + 1), 0
end
redis.call("ZADD", KEYS[3], ends, member)
if tracked then
	redis.call("ZREM", KEYS[1], member)
	redis.call("ZADD", KEYS[2], expiry, member)
end
return {"claimed", string.format("%.0f", token)}
`)

// Claim asks whether a lock may be released; seen is the expiry that the sweep has
// seen. Claimed: it may, and nobody can renew it until hold has passed or the
// claim is ended. Renewed: it must stay, since its expiry is later than seen, or
// in the future. Forgotten: it must stay, since the ledger does not know it.
//
// A claim protects only until hold has passed. So the caller must set a deadline
// for its call to KooDrive before it calls Claim, and hold the claim for longer
// than that: the difference covers what KooDrive may still do after the caller has
// given the call up. The same task may claim again.
func (s *Store) Claim(ctx context.Context, id tasks.LockID, seen time.Time, hold time.Duration) (Claim, error) {
	return s.claim(ctx, id, seen, hold, 0)
}

// ClaimExternal is Claim for a lock of an external source; see SweptStore. The
// lock need not be in the ledger. If it is, the ledger's expiry counts as well.
func (s *Store) ClaimExternal(ctx context.Context, id tasks.LockID, seen time.Time, hold time.Duration) (Claim, error) {
	return s.claim(ctx, id, seen, hold, 1)
}

func (s *Store) claim(ctx context.Context, id tasks.LockID, seen time.Time, hold time.Duration, external int) (Claim, error) {
	if err := id.Validate(); err != nil {
		return Claim{}, fmt.Errorf("locks: claim: %w", err)
	}
	if seen.IsZero() {
		return Claim{}, fmt.Errorf("locks: claim %s: want the expiry that the sweep has seen", id.LockID)
	}
	if hold < time.Millisecond || hold > maxHold {
		return Claim{}, fmt.Errorf("locks: claim %s for %s; want 1ms to %s", id.LockID, hold, maxHold)
	}
	reply, err := claimCmd.Run(ctx, s.rdb, keys(), member(id), millisAt(seen), millisUp(hold), external).StringSlice()
	if err == nil && len(reply) != 2 {
		err = fmt.Errorf("%d values; want 2", len(reply))
	}
	c := Claim{ID: id, Seen: seen}
	if err == nil {
		c.Status = Status(reply[0])
		_, err = fmt.Sscan(reply[1], &c.FencingToken)
	}
	if err != nil {
		return Claim{}, fmt.Errorf("locks: claim %s: %w", id.LockID, err)
	}
	return c, nil
}

// endCmd ends a claim.
//
// KEYS -> expiry, swept, claims, names
// --
// ARGV[1] -> the member
// ARGV[2] -> the fencing token
// ARGV[3] -> 1 if the lock is released, else 0
// ARGV[4] -> the latest expiry in ms with which it is still the lock that was
// released
//
// Returns 1 if the lock was removed from the ledger, else 0. It takes effect as a
// whole.
var endCmd = redis.NewScript(ledgerLua + `
local member = ARGV[1]
if claimed(member) == tonumber(ARGV[2]) then
	redis.call("ZREM", KEYS[3], member)
end
local expiry = score(KEYS[1], member) or score(KEYS[2], member)
if ARGV[3] == "0" or not expiry or expiry > tonumber(ARGV[4]) then
	return 0
end
redis.call("ZREM", KEYS[1], member)
redis.call("ZREM", KEYS[2], member)
redis.call("ZREM", KEYS[4], member)
return 1
`)

// Unclaim ends a claim whose release has not happened, and will not happen before
// the lock is claimed again. The lock can be renewed at once; until then it stays
// in swept. A claim without a token is left to end by its time.
func (s *Store) Unclaim(ctx context.Context, c Claim) error { return s.end(ctx, "unclaim", c, 0) }

// Released ends the claim of a lock that is released, by this caller or before, and
// removes the lock from the ledger. A lock that was tracked since with a later
// expiry than Seen stays. For a lock that was released without a claim, because
// somebody ordered it, the Claim has nothing but the ID; the lock is removed
// whatever its expiry.
func (s *Store) Released(ctx context.Context, c Claim) error { return s.end(ctx, "released", c, 1) }

func (s *Store) end(ctx context.Context, verb string, c Claim, released int) error {
	if err := c.ID.Validate(); err != nil {
		return fmt.Errorf("locks: %s: %w", verb, err)
	}
	latest := int64(maxScore)
	if !c.Seen.IsZero() {
		latest = millisAt(c.Seen)
	}
	if err := endCmd.Run(ctx, s.rdb, keys(), member(c.ID), c.FencingToken, released, latest).Err(); err != nil {
		return fmt.Errorf("locks: %s %s: %w", verb, c.ID.LockID, err)
	}
	return nil
}
