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
	// FencingToken is what gives the claim back. It is 0 if another one was live, and
	// then the claim ends by its time.
	FencingToken int64
}

// maxHold bounds for how long nobody can renew a lock.
const maxHold = time.Hour

// claimCmd claims a lock, and moves it to swept if it is not there yet. It also
// takes off a few claims that are over, so that they do not pile up where nobody
// calls Drop.
//
// KEYS -> expiry, swept, claims, names
// --
// ARGV[1] -> the member
// ARGV[2] -> the expiry in ms that was seen
// ARGV[3] -> ms to hold
// ARGV[4] -> 1 if the ledger need not know the lock, else 0
//
// Returns the Status and the ticket. A lock that is in swept before its expiry
// (the clock was set back) is put back into expiry, for a later sweep.
var claimCmd = redis.NewScript(ledgerLua + `
for _, old in ipairs(redis.call("ZRANGEBYSCORE", KEYS[3], "-inf", now, "LIMIT", 0, 4)) do
	redis.call("ZREM", KEYS[3], old)
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
-- A ticket is the time at which the claim is over. Another claim would get the
-- same only in the same millisecond, after this one was given back.
local over, live = now + ARGV[3], claimed(member)
local ticket = over
if live then
	over, ticket = math.max(over, live + 1), 0
end
redis.call("ZADD", KEYS[3], over, member)
if tracked then
	redis.call("ZREM", KEYS[1], member)
	redis.call("ZADD", KEYS[2], expiry, member)
end
return {"claimed", string.format("%.0f", ticket)}
`)

// Claim asks whether a lock may be released that had expired at seen when it was
// swept. Claimed: it may, and until hold has passed, or the claim is given back,
// nobody can renew it. Renewed: it may not, since its expiry is later, or still to
// come. Forgotten: it may not, since the ledger does not know it.
//
// The caller must have given up its call when hold has passed since before it
// called Claim. The same task may claim again.
func (s *Store) Claim(ctx context.Context, id tasks.LockID, seen time.Time, hold time.Duration) (Claim, error) {
	return s.claim(ctx, id, seen, hold, 0)
}

// ClaimListed is Claim for a lock that was found elsewhere; see Notes. The ledger
// need not know it, and if it does its word counts as well.
func (s *Store) ClaimListed(ctx context.Context, id tasks.LockID, seen time.Time, hold time.Duration) (Claim, error) {
	return s.claim(ctx, id, seen, hold, 1)
}

func (s *Store) claim(ctx context.Context, id tasks.LockID, seen time.Time, hold time.Duration, listed int) (Claim, error) {
	if err := id.Validate(); err != nil {
		return Claim{}, fmt.Errorf("locks: claim: %w", err)
	}
	if seen.IsZero() {
		return Claim{}, fmt.Errorf("locks: claim %s: want the expiry that was seen", id.LockID)
	}
	if hold < time.Millisecond || hold > maxHold {
		return Claim{}, fmt.Errorf("locks: claim %s for %s; want 1ms to %s", id.LockID, hold, maxHold)
	}
	reply, err := claimCmd.Run(ctx, s.rdb, keys(), member(id), millisAt(seen), millisUp(hold), listed).StringSlice()
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

// endCmd ends claims.
//
// KEYS -> expiry, swept, claims, names
// --
// ARGV[1] -> 1 if the locks are gone, else 0
// ARGV[2…] -> of each: the member, its ticket, and the expiry in ms up to which
// it is the lock that is gone
//
// Returns "forgotten" for what was taken out of the ledger, else "unchanged". All
// of them take effect at once.
var endCmd = redis.NewScript(ledgerLua + `
local words = {}
for i = 2, #ARGV, 3 do
	local member, ticket, highest = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
	if claimed(member) == ticket then
		redis.call("ZREM", KEYS[3], member)
	end
	local expiry = score(KEYS[1], member) or score(KEYS[2], member)
	local word = "unchanged"
	if ARGV[1] == "1" and expiry and expiry <= highest then
		redis.call("ZREM", KEYS[1], member)
		redis.call("ZREM", KEYS[2], member)
		redis.call("ZREM", KEYS[4], member)
		word = "forgotten"
	end
	words[#words + 1] = word
end
return words
`)

// Unclaim says that the release has not happened, and will not before the lock
// is claimed again. The lock can be renewed at once; until it is, it stays in
// swept.
func (s *Store) Unclaim(ctx context.Context, c Claim) error {
	return s.end(ctx, "give back", []Claim{c}, 0)
}

// Released says that locks were released, or were gone already, and takes them
// out of the ledger. A lock that was tracked since with a later expiry than Seen
// stays. A lock that was released without a claim, because somebody has named it,
// has only its ID in its Claim, and is taken out whatever its expiry.
func (s *Store) Released(ctx context.Context, claims []Claim) error {
	return s.end(ctx, "released", claims, 1)
}

func (s *Store) end(ctx context.Context, verb string, claims []Claim, gone int) error {
	rows := make([][]any, len(claims))
	for i, c := range claims {
		if err := c.ID.Validate(); err != nil {
			return fmt.Errorf("locks: %s number %d: %w", verb, i+1, err)
		}
		highest := int64(everything)
		if !c.Seen.IsZero() {
			highest = millisAt(c.Seen)
		}
		rows[i] = []any{member(c.ID), c.FencingToken, highest}
	}
	_, err := s.bulk(ctx, verb, endCmd, rows, gone)
	return err
}
