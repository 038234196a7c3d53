package bulk

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/worker/deadletter"
)

// leaseCmd takes the lease of a job, or renews it. It is atomic.
//
// KEYS[1] -> kooworker:{dead-letter}:lease:<job>
// KEYS[2] -> kooworker:{dead-letter}:job:<job>
// KEYS[3] -> kooworker:{dead-letter}:jobs:open
// --
// ARGV[1] -> token
// ARGV[2] -> how long the lease lasts, in ms
// ARGV[3] -> the job's ID
// ARGV[4] -> 1 to renew only
//
// Returns 1 if the lease is held with this token; 2 if it is, and somebody wants the job to
// stop; 0 if somebody else holds it, or it has ended; -1 if the job has ended.
var leaseCmd = redis.NewScript(`
local state = redis.call("HGET", KEYS[2], "state")
if not state or state == "done" or state == "failed" or state == "stopped" then
	redis.call("ZREM", KEYS[3], ARGV[3])
	return -1
end
local holder = redis.call("GET", KEYS[1])
if holder and holder ~= ARGV[1] or not holder and ARGV[4] == "1" then return 0 end
redis.call("SET", KEYS[1], ARGV[1], "PX", ARGV[2])
return 1 + redis.call("HEXISTS", KEYS[2], "stop")
`)

// writeCmd writes fields of a record if the lease is held, and may end the job. It is
// atomic.
//
// KEYS[1] -> kooworker:{dead-letter}:lease:<job>
// KEYS[2] -> kooworker:{dead-letter}:job:<job>
// KEYS[3] -> kooworker:{dead-letter}:canary:<job>
// KEYS[4] -> kooworker:{dead-letter}:jobs:open
// KEYS[5] -> kooworker:{dead-letter}:jobs:ended
// --
// ARGV[1] -> token
// ARGV[2] -> ID
// ARGV[3] -> 1 if the job ends
// ARGV[4] -> for how long an ended job is kept, in ms
// ARGV[5] -> how many of them are kept
// ARGV[6] -> prefix of the records' keys
// ARGV[7…] -> fields and values; the value "now" of a field that ends in _at is the time
//
// Returns 1, or 0 if the lease is lost.
var writeCmd = redis.NewScript(`
if redis.call("GET", KEYS[1]) ~= ARGV[1] then return 0 end
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 7, #ARGV, 2 do
	local value = ARGV[i + 1]
	if value == "now" and ARGV[i]:sub(-3) == "_at" then value = string.format("%.0f", now) end
	redis.call("HSET", KEYS[2], ARGV[i], value)
end
if ARGV[3] ~= "1" then return 1 end
redis.call("HSET", KEYS[2], "ended_at", string.format("%.0f", now))
redis.call("ZADD", KEYS[5], string.format("%.0f", now), ARGV[2])
redis.call("ZREM", KEYS[4], ARGV[2])
redis.call("PEXPIRE", KEYS[2], ARGV[4])
redis.call("DEL", KEYS[1], KEYS[3])
redis.call("ZREMRANGEBYSCORE", KEYS[5], "-inf", string.format("%.0f", now - ARGV[4]))
for _, old in ipairs(redis.call("ZRANGE", KEYS[5], 0, -tonumber(ARGV[5]) - 1)) do
	redis.call("ZREM", KEYS[5], old)
	redis.call("DEL", ARGV[6] .. old)
end
return 1
`)

// releaseCmd gives a lease back. It is atomic.
//
// KEYS[1] -> kooworker:{dead-letter}:lease:<job>
// --
// ARGV[1] -> token
//
// Returns 1 if it was given back, and 0 otherwise.
var releaseCmd = redis.NewScript(`
if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("DEL", KEYS[1]) end
return 0
`)

// lease is the right to run a job.
type lease struct {
	rdb       redis.UniversalClient
	id, token string
	ttl       time.Duration
}

// take takes the lease, or renews it. It is not held if another process has it, or if the job has
// ended.
func (l lease) take(ctx context.Context, renewOnly bool) (held, isStopped bool, err error) {
	flag := 0
	if renewOnly {
		flag = 1
	}
	n, err := leaseCmd.Run(ctx, l.rdb, []string{leaseKey(l.id), recordKey(l.id), openKey}, l.token, l.ttl.Milliseconds(), l.id, flag).Int()
	if err != nil {
		return false, false, fmt.Errorf("take the lease of job %s: %w", l.id, err)
	}
	return n > 0, n == 2, nil
}

// keep renews the lease until ctx ends. It ends ctx when the lease is lost, or when the job
// is to stop. While Redis does not answer it goes on trying: nothing can be changed meanwhile.
func (l lease) keep(ctx context.Context, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(l.ttl / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		limited, stop := context.WithTimeout(ctx, l.ttl)
		held, isStopped, err := l.take(limited, true)
		stop()
		switch {
		case err != nil:
		case !held:
			cancel(deadletter.ErrFenced)
			return
		case isStopped:
			cancel(deadletter.ErrStopped)
			return
		}
	}
}

// write writes fields of the record, while the lease is held.
func (l lease) write(ctx context.Context, ends bool, fields ...any) error {
	flag := 0
	if ends {
		flag = 1
	}
	keys := []string{leaseKey(l.id), recordKey(l.id), canaryKey(l.id), openKey, endedKey}
	n, err := writeCmd.Run(ctx, l.rdb, keys, append([]any{l.token, l.id, flag, keepEnded.Milliseconds(), maxEnded, jobPrefix}, fields...)...).Int()
	switch {
	case err != nil:
		return fmt.Errorf("write job %s: %w", l.id, err)
	case n == 0:
		return deadletter.ErrFenced
	}
	return nil
}

// release gives the lease back, so that another process need not wait until it ends.
func (l lease) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := releaseCmd.Run(ctx, l.rdb, []string{leaseKey(l.id)}, l.token).Err(); err != nil && !errors.Is(err, redis.Nil) {
		return // it ends by itself
	}
}
