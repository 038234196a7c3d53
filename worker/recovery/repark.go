package recovery

import (
	"context"
	"fmt"
	"time"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/httpx"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// reparkCmd puts a dead letter back among the parked ones. It is atomic.
//
// KEYS -> as in prelude, with one task
// --
// ARGV[1] -> the task's ID
// ARGV[2] -> the set where it was seen, 0 for no set
// ARGV[3] -> its score there
// ARGV[4] -> its message
// ARGV[5] -> its message as a parked letter
// ARGV[6] -> how far ahead it is parked, in seconds
// ARGV[7], ARGV[8] -> its counts of crashes
//
// Returns 1 if it was parked and 0 if it has changed since it was seen.
var reparkCmd = script(`
local id, key = ARGV[1], KEYS[8]
if message(key) ~= ARGV[4] or not unchanged(id, key, tonumber(ARGV[2]), ARGV[3]) then return 0 end
removeFromAll(id)
redis.call("ZADD", KEYS[5], redis.call("TIME")[1] + ARGV[6], id)
redis.call("HSET", key, "msg", ARGV[5], "state", "retry", "kooworker_crashes_alone", ARGV[7], "kooworker_crashes_calm", ARGV[8])
redis.call("HDEL", key, "pending_since", "kooworker_alone")
return 1
`)

// repark puts a dead letter back among the parked ones, with the error that
// asynqmon shall show. It charges no retry. But a letter that has never been
// parked counts one retry from now on: zero retries mark a letter that arrives,
// and a letter that arrives is not carried out when it is replayed.
func (r *Repairer) repark(ctx context.Context, q queue, it item, text string, as Repair) error {
	failedAt := time.Now()
	if text == it.msg.ErrorMsg && it.msg.LastFailedAt > 0 {
		failedAt = time.Unix(it.msg.LastFailedAt, 0)
	}
	parked, err := asynqx.RewriteFailure([]byte(*it.raw), max(it.msg.Retried, 1), httpx.ErrorLine(text), failedAt)
	if err != nil {
		return fmt.Errorf("rewrite %s: %w", it.id, err)
	}
	// Without this a letter that was replayed, and has crashed its worker, would be where it was
	// before the replay, and a change of all letters would come to it once more. If the process
	// dies behind it, the letter is indexed again when it is put back after all.
	if err := r.indexDeath(ctx, deadletter.FromMessage(it.id, parked)); err != nil {
		return err
	}
	n, err := r.run(ctx, reparkCmd, q.keys(it.id), it.id, int(it.in), it.score,
		*it.raw, parked, int64(asynqx.ParkDelay.Seconds()), it.crashes.alone, it.crashes.calm).Int()
	if err != nil {
		return fmt.Errorf("put %s back among the parked: %w", it.id, err)
	}
	if n == 1 {
		r.logRepairs(q, as, it.id)
	}
	return nil
}

func (r *Repairer) indexDeath(ctx context.Context, l deadletter.Letter) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	return r.cfg.IndexDeath(ctx, l)
}
