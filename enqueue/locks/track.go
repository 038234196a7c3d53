package locks

import (
	"context"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// trackCmd sets the expiries of locks. An expiry can only become later.
//
// KEYS -> expiry, swept, claims, names
// --
// ARGV[1] -> ms that an expiry may be away from now
// ARGV[2…] -> of each lock: the member, 1 if its expiry counts from now, else 0,
// and the expiry in ms
//
// Returns a Status for each lock. All of them take effect at once.
var trackCmd = redis.NewScript(ledgerLua + `
local answers = {}
for i = 2, #ARGV, 3 do
	local member, expiry = ARGV[i], ARGV[i + 1] * now + ARGV[i + 2]
	local tracked, swept = score(KEYS[1], member), score(KEYS[2], member)
	local answer
	if math.abs(expiry - now) > tonumber(ARGV[1]) then
		answer = "refused"
	elseif claimed(member) then
		answer = "releasing"
	elseif tracked then
		answer = expiry > tracked and "renewed" or "unchanged"
	elseif swept then
		answer = expiry > swept and "renewed" or "swept"
	else
		answer = "tracked"
	end
	if answer == "tracked" or answer == "renewed" then
		redis.call("ZADD", KEYS[4], 0, member) -- first, so that a full Redis refuses it
		redis.call("ZADD", KEYS[1], expiry, member)
		if swept then
			redis.call("ZREM", KEYS[2], member)
		end
	end
	answers[#answers + 1] = answer
end
return answers
`)

// Track records locks that were created. It answers for each, in their order:
// Tracked, Renewed, Unchanged, Swept, Releasing or Refused.
//
// A request that is not valid is an error, and then nothing has changed. Any other
// error may come half-way: Track returns the answers so far, and it is safe to
// call it again.
func (s *Store) Track(ctx context.Context, requests []TrackRequest) ([]Status, error) {
	return s.track(ctx, "track", requests)
}

// Renew records locks that were renewed. It tracks a lock that the ledger does not
// know. It answers as Track does; only after Tracked, Renewed or Unchanged the
// lock is safe.
func (s *Store) Renew(ctx context.Context, requests []TrackRequest) ([]Status, error) {
	return s.track(ctx, "renew", requests)
}

func (s *Store) track(ctx context.Context, verb string, requests []TrackRequest) ([]Status, error) {
	return runChunked(ctx, s.rdb, keys(), verb, trackCmd, requests, TrackRequest.row, MaxExpiryOffset.Milliseconds())
}

// forgetCmd removes locks from the ledger. It keeps live claims; the package
// comment says why.
//
// KEYS -> expiry, swept, claims, names
// --
// ARGV -> members
//
// Returns "forgotten" or "unknown" for each. All of them take effect at once.
var forgetCmd = redis.NewScript(ledgerLua + `
local answers = {}
for i, member in ipairs(ARGV) do
	claimed(member)
	local n = redis.call("ZREM", KEYS[1], member) + redis.call("ZREM", KEYS[2], member)
	redis.call("ZREM", KEYS[4], member)
	answers[i] = n > 0 and "forgotten" or "unknown"
end
return answers
`)

// Forget removes locks that their holders have released. It answers for each
// whether the ledger knew it: Forgotten or Unknown. Errors are as those of Track.
func (s *Store) Forget(ctx context.Context, ids []tasks.LockID) ([]Status, error) {
	return runChunked(ctx, s.rdb, keys(), "forget", forgetCmd, ids, func(id tasks.LockID) ([]any, error) {
		return []any{member(id)}, id.Validate()
	})
}
