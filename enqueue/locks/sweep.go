package locks

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// sweptCmd moves locks from expiry to swept.
//
// KEYS -> expiry, swept, claims, names
// --
// ARGV -> of each lock: the member, and the expiry in ms that was seen
//
// Returns "swept", or "unchanged" if that is not its expiry, for each. All of
// them take effect at once.
var sweptCmd = redis.NewScript(ledgerLua + `
local words = {}
for i = 1, #ARGV, 2 do
	local member, seen = ARGV[i], tonumber(ARGV[i + 1])
	local word = "unchanged"
	if score(KEYS[1], member) == seen then
		redis.call("ZREM", KEYS[1], member)
		redis.call("ZADD", KEYS[2], seen, member)
		word = "swept"
	end
	words[#words + 1] = word
end
return words
`)

// Swept notes that the releases of these locks are enqueued, so that no sweep
// takes them again. A lock whose expiry is not the one that was seen any more
// stays as it is. It is called after asynq has the releases: were it called
// before, a crash in between would lose them. To do it again is safe.
func (s *Store) Swept(ctx context.Context, locks []tasks.Lock) error {
	rows := make([][]any, len(locks))
	for i, l := range locks {
		id := l.ID()
		if err := id.Validate(); err != nil {
			return fmt.Errorf("locks: swept number %d: %w", i+1, err)
		}
		rows[i] = []any{member(id), millisAt(l.ExpiresAt)}
	}
	_, err := s.bulk(ctx, "swept", sweptCmd, rows)
	return err
}

// dropCmd drops a piece of what was swept long ago, and of the claims that are
// over.
//
// KEYS -> expiry, swept, claims, names
// --
// ARGV[1] -> ms for which they are kept after their expiry
// ARGV[2] -> how many to drop at most, of each
//
// Returns how many locks and how many claims were dropped.
var dropCmd = redis.NewScript(nowLua + `
local function drop(highest, key, names)
	local members = redis.call("ZRANGEBYSCORE", key, "-inf", highest, "LIMIT", 0, ARGV[2])
	if #members > 0 then
		redis.call("ZREM", key, unpack(members))
	end
	if #members > 0 and names then
		redis.call("ZREM", names, unpack(members))
	end
	return #members
end
return {drop(now - ARGV[1], KEYS[2], KEYS[4]), drop(now, KEYS[3])}
`)

// Drop drops the locks that were swept, and whose expiry has been over for as
// long as keep; and with them the claims that are over. It returns the number of
// locks. A release that is carried out later finds its lock forgotten, and does
// nothing.
func (s *Store) Drop(ctx context.Context, keep time.Duration) (n int64, err error) {
	if keep < 0 {
		return 0, fmt.Errorf("locks: to keep them for %s is too short; want at least 0s", keep)
	}
	for {
		dropped, err := dropCmd.Run(ctx, s.rdb, keys(), millisUp(keep), chunk).Int64Slice()
		if err == nil && len(dropped) != 2 {
			err = fmt.Errorf("%d values; want 2", len(dropped))
		}
		if err != nil {
			return n, fmt.Errorf("locks: drop: %w", err)
		}
		n += dropped[0]
		if dropped[0] < chunk && dropped[1] < chunk {
			return n, nil
		}
	}
}
