package locks

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// markSweptCmd moves locks from expiry to swept.
//
// KEYS -> expiry, swept, claims, names
// --
// ARGV -> of each lock: the member, and the expiry in ms that the sweep has seen
//
// Returns "swept" for each, or "unchanged" if its expiry is another now. All of
// them take effect at once.
var markSweptCmd = redis.NewScript(ledgerLua + `
local answers = {}
for i = 1, #ARGV, 2 do
	local member, seen = ARGV[i], tonumber(ARGV[i + 1])
	local answer = "unchanged"
	if score(KEYS[1], member) == seen then
		redis.call("ZREM", KEYS[1], member)
		redis.call("ZADD", KEYS[2], seen, member)
		answer = "swept"
	end
	answers[#answers + 1] = answer
end
return answers
`)

// MarkSwept records that the releases of these locks are enqueued, so that no
// sweep takes them again. A lock whose expiry has changed since the sweep has seen
// it stays as it is. Call it after asynq has the releases: if it came before, a
// crash in between would lose them. It is safe to call it again.
func (s *Store) MarkSwept(ctx context.Context, swept []tasks.Lock) error {
	_, err := runChunked(ctx, s.rdb, keys(), "mark swept", markSweptCmd, swept, func(l tasks.Lock) ([]any, error) {
		return []any{member(l.ID()), millisAt(l.ExpiresAt)}, l.ID().Validate()
	})
	return err
}

// dropCmd removes one chunk of the members whose time has passed.
//
// KEYS[1] -> the set that has a time in ms for each member
// KEYS[2…] -> further sets that the same members leave
// --
// ARGV[1] -> ms for which a member is kept after its time
// ARGV[2] -> how many to remove at most
//
// Returns how many were removed. It takes effect as a whole.
var dropCmd = redis.NewScript(nowLua + `
local members = redis.call("ZRANGEBYSCORE", KEYS[1], "-inf", now - ARGV[1], "LIMIT", 0, ARGV[2])
if #members > 0 then
	for _, key in ipairs(KEYS) do
		redis.call("ZREM", key, unpack(members))
	end
end
return #members
`)

// drop runs dropCmd until it has removed all such members, and returns their number.
func drop(ctx context.Context, rdb redis.UniversalClient, keep time.Duration, keys ...string) (n int64, err error) {
	for {
		dropped, err := dropCmd.Run(ctx, rdb, keys, millisUp(keep), chunk).Int64()
		if err != nil {
			return n, fmt.Errorf("locks: drop: %w", err)
		}
		if n += dropped; dropped < chunk {
			return n, nil
		}
	}
}

// Drop removes the swept locks that have been expired for longer than keep, and
// the claims that have ended. It returns the number of locks. If a release of such
// a lock is carried out later, Claim answers Forgotten and nothing is released.
func (s *Store) Drop(ctx context.Context, keep time.Duration) (n int64, err error) {
	if keep < 0 {
		return 0, fmt.Errorf("locks: cannot keep swept locks for %s; want at least 0s", keep)
	}
	if _, err := drop(ctx, s.rdb, 0, claimsKey); err != nil {
		return 0, err
	}
	return drop(ctx, s.rdb, keep, sweptKey, byUserKey)
}
