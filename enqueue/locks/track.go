package locks

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// trackCmd gives expiries to locks, each of which may only become later.
//
// KEYS -> expiry, swept, claims, names
// --
// ARGV[1] -> ms that an expiry may be away from now
// ARGV[2…] -> of each lock: the member, 1 if its expiry counts from now, else 0,
// and the expiry in ms
//
// Returns a Status for each lock. All of them take effect at once.
var trackCmd = redis.NewScript(ledgerLua + `
local words = {}
for i = 2, #ARGV, 3 do
	local member, expiry = ARGV[i], ARGV[i + 1] * now + ARGV[i + 2]
	local tracked, swept = score(KEYS[1], member), score(KEYS[2], member)
	local word
	if math.abs(expiry - now) > tonumber(ARGV[1]) then
		word = "refused"
	elseif claimed(member) then
		word = "releasing"
	elseif tracked then
		word = expiry > tracked and "renewed" or "unchanged"
	elseif swept then
		word = expiry > swept and "renewed" or "swept"
	else
		word = "tracked"
	end
	if word == "tracked" or word == "renewed" then
		redis.call("ZADD", KEYS[4], 0, member) -- first, so that a full Redis refuses it
		redis.call("ZADD", KEYS[1], expiry, member)
		if swept then
			redis.call("ZREM", KEYS[2], member)
		end
	end
	words[#words + 1] = word
end
return words
`)

// Track notes locks that were created. It answers for each, in their order, how
// it stands: Tracked, Renewed, Unchanged, Swept, Releasing or Refused.
//
// An entry that is not valid is an error, and then nothing has changed. Any other
// error may come half-way: the answers so far are returned, and to do it again is
// safe.
func (s *Store) Track(ctx context.Context, entries []TrackRequest) ([]Status, error) {
	return s.track(ctx, "track", entries)
}

// Renew notes locks that were renewed. One that the ledger does not know it
// tracks. It answers as Track does; only after Tracked, Renewed or Unchanged the
// lock is safe.
func (s *Store) Renew(ctx context.Context, entries []TrackRequest) ([]Status, error) {
	return s.track(ctx, "renew", entries)
}

func (s *Store) track(ctx context.Context, verb string, entries []TrackRequest) ([]Status, error) {
	rows := make([][]any, len(entries))
	for i, e := range entries {
		var err error
		if rows[i], err = e.row(); err != nil {
			return nil, fmt.Errorf("locks: %s number %d: %w", verb, i+1, err)
		}
	}
	return s.bulk(ctx, verb, trackCmd, rows, MaxExpiryOffset.Milliseconds())
}

// forgetCmd takes locks out of the ledger. A claim that is live stays: see the
// package.
//
// KEYS -> expiry, swept, claims, names
// --
// ARGV -> members
//
// Returns "forgotten" or "unknown" for each. All of them take effect at once.
var forgetCmd = redis.NewScript(ledgerLua + `
local words = {}
for i, member in ipairs(ARGV) do
	claimed(member)
	local n = redis.call("ZREM", KEYS[1], member) + redis.call("ZREM", KEYS[2], member)
	redis.call("ZREM", KEYS[4], member)
	words[i] = n > 0 and "forgotten" or "unknown"
end
return words
`)

// Forget takes locks that their holders have released out of the ledger. It
// answers for each whether it was there: Forgotten or Unknown. Errors are as
// those of Track.
func (s *Store) Forget(ctx context.Context, ids []tasks.LockID) ([]Status, error) {
	rows := make([][]any, len(ids))
	for i, id := range ids {
		if err := id.Validate(); err != nil {
			return nil, fmt.Errorf("locks: forget number %d: %w", i+1, err)
		}
		rows[i] = []any{member(id)}
	}
	return s.bulk(ctx, "forget", forgetCmd, rows)
}
