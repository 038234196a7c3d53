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
	rows := make([][]any, len(swept))
	for i, l := range swept {
		id := l.ID()
		if err := id.Validate(); err != nil {
			return fmt.Errorf("locks: mark swept number %d: %w", i+1, err)
		}
		rows[i] = []any{member(id), millisAt(l.ExpiresAt)}
	}
	_, err := s.runChunked(ctx, "mark swept", markSweptCmd, rows)
	return err
}

// dropCmd removes one chunk of the locks that were swept long ago, and one of the
// claims that have ended.
//
// KEYS -> expiry, swept, claims, names
// --
// ARGV[1] -> ms for which locks are kept after their expiry
// ARGV[2] -> how many to remove at most, of each
//
// Returns how many locks and how many claims were removed. It takes effect as a
// whole.
var dropCmd = redis.NewScript(nowLua + `
local function drop(latest, key, names)
	local members = redis.call("ZRANGEBYSCORE", key, "-inf", latest, "LIMIT", 0, ARGV[2])
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

// Drop removes the swept locks that have been expired for longer than keep, and
// the claims that have ended. It returns the number of locks. If a release of such
// a lock is carried out later, Claim answers Forgotten and nothing is released.
func (s *Store) Drop(ctx context.Context, keep time.Duration) (n int64, err error) {
	if keep < 0 {
		return 0, fmt.Errorf("locks: cannot keep swept locks for %s; want at least 0s", keep)
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
