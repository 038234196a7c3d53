package pipeline

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
)

// waitGap ends a wait: a task that has not waited for so long, since it called
// KooDrive meanwhile or no worker ran, begins a new wait. It is much longer than the
// pauses of a task that waits.
const waitGap = time.Hour

// waitCmd notes that a task waits. The note is in the task's own hash, and goes with
// it. A task that is gone gets no note: a hash without a message would occupy its ID.
//
// KEYS[1] -> asynq:{<queue>}:t:<id>
// --
// ARGV[1] -> s after which the wait is too long
// ARGV[2] -> s without a note after which the wait is another one
// ARGV[3] -> 1 if the note is to be removed when the wait is too long, else 0
//
// Returns 1 if the wait is too long, else 0. It takes effect as a whole.
var waitCmd = redis.NewScript(`
if redis.call("EXISTS", KEYS[1]) == 0 then
	return 0
end
local now = tonumber(redis.call("TIME")[1])
local m = redis.call("HMGET", KEYS[1], "kooworker_waits_since", "kooworker_waited_at")
local since, at = tonumber(m[1]), tonumber(m[2])
if not since or not at or now - at > tonumber(ARGV[2]) or now < since then
	since = now
end
local over = now - since >= tonumber(ARGV[1])
if over and ARGV[3] == "1" then
	redis.call("HDEL", KEYS[1], "kooworker_waits_since", "kooworker_waited_at")
else
	redis.call("HSET", KEYS[1], "kooworker_waits_since", since, "kooworker_waited_at", now)
end
return over and 1 or 0
`)

// NewWaited returns a function for Config.Waited. The wait is noted in Redis, by
// Redis' clock. So all workers know it, and it outlives their restarts.
//
// The letter of a replay stays where it is, and its next replay is another wait. So
// its note is removed at the end of the wait. If the process dies after that, the
// wait begins again.
func NewWaited(rdb redis.UniversalClient) func(context.Context, Delivery, time.Duration) (bool, error) {
	return func(ctx context.Context, d Delivery, most time.Duration) (tooLong bool, err error) {
		remove := 0
		if d.Replay {
			remove = 1
		}
		tooLong, err = waitCmd.Run(ctx, rdb, []string{asynqx.TaskKey(d.Queue, d.ID)}, most.Seconds(), waitGap.Seconds(), remove).Bool()
		if err != nil {
			return false, fmt.Errorf("note that %s waits: %w", d.ID, err)
		}
		return tooLong, nil
	}
}
