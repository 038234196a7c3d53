package recovery

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
)

// orphanChunk is how many entries of active one script compares with the leases.
const orphanChunk = 500

// leaseCmd gives each active ID that has no lease a fresh one. It is atomic.
//
// KEYS[1] -> asynq:{<queue>}:active
// KEYS[2] -> asynq:{<queue>}:lease
// --
// ARGV[1] -> the first index in active
// ARGV[2] -> the last one
// ARGV[3] -> how long a fresh lease lasts, in seconds
//
// Returns the IDs that got one.
var leaseCmd = redis.NewScript(`
local ends = redis.call("TIME")[1] + ARGV[3]
local out = {}
for _, id in ipairs(redis.call("LRANGE", KEYS[1], ARGV[1], ARGV[2])) do
  if redis.call("ZADD", KEYS[2], "NX", ends, id) == 1 then table.insert(out, id) end
end
return out
`)

// tooLate is how far ahead no lease ends that was written by Redis' clock.
const tooLate = asynqx.LeaseTTL + 10*time.Second

// shortenCmd makes leases that end too late end as if they had been extended just now.
//
// KEYS[1] -> asynq:{<queue>}:lease
// --
// ARGV[1] -> how far ahead is too late, in seconds
// ARGV[2] -> how long a fresh lease lasts, in seconds
// ARGV[3] -> how many it shortens at most.
var shortenCmd = redis.NewScript(`
local now = redis.call("TIME")[1]
for _, id in ipairs(redis.call("ZRANGEBYSCORE", KEYS[1], now + ARGV[1], "+inf", "LIMIT", 0, ARGV[3])) do
  redis.call("ZADD", KEYS[1], "XX", now + ARGV[2], id)
end
return 1
`)

// leaseOrphans gives active tasks without a lease a fresh one. asynq never does: its
// heartbeats extend leases and its recoverer reads them, so such a task would stay in
// active for ever. It is not requeued at once, since its owner may live. Then the
// owner's heartbeats extend the fresh lease; otherwise it expires like any other.
//
// In a worker, the IDs are compared only if active and lease differ in length. Should an
// orphan and a lease without a task make the lengths equal, they differ again
// when that lease has expired and is removed. RunOnce has no later pass that would see it,
// so it always compares.
//
// It also shortens leases that end too late: their owner's clock is ahead. If that
// owner is dead, the tasks would wait until the fleet's clock is there too. If it
// lives, its next heartbeat writes the lease again.
func (r *Repairer) leaseOrphans(ctx context.Context, q queue) error {
	limited, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	keys := []string{asynqx.ActiveKey(q.name), asynqx.LeaseKey(q.name)}
	var active, leases, late *redis.IntCmd
	_, err := r.cfg.Redis.Pipelined(limited, func(p redis.Pipeliner) error {
		active, leases = p.LLen(limited, keys[0]), p.ZCard(limited, keys[1])
		late = p.ZCount(limited, keys[1], strconv.FormatInt(r.uptime.last.Add(tooLate).Unix(), 10), "+inf")
		return nil
	})
	if err != nil {
		return fmt.Errorf("count leases: %w", err)
	}
	if late.Val() > 0 {
		err := r.run(ctx, shortenCmd, keys[1:], int64(tooLate.Seconds()), int64(asynqx.LeaseTTL.Seconds()), orphanChunk).Err()
		if err != nil {
			return fmt.Errorf("shorten leases: %w", err)
		}
	}
	if active.Val() == leases.Val() && !r.isOnce {
		return nil
	}
	for first := int64(0); first < active.Val(); first += orphanChunk {
		if err := r.ensureLock(ctx); err != nil {
			return err
		}
		ids, err := r.run(ctx, leaseCmd, keys, first, first+orphanChunk-1, int64(asynqx.LeaseTTL.Seconds())).StringSlice()
		if err != nil {
			return fmt.Errorf("lease orphans: %w", err)
		}
		r.logRepairs(q, Leased, ids...)
	}
	return nil
}
