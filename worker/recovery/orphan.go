package recovery

import (
	"context"
	"fmt"

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

// leaseOrphans gives active tasks without a lease a fresh one. asynq never does: its
// heartbeats extend leases and its recoverer reads them, so such a task would stay in
// active for ever. It is not requeued at once, since its owner may live. Then the
// owner's heartbeats extend the fresh lease; otherwise it expires like any other.
//
// The IDs are compared only if active and lease differ in length. Should an
// orphan and a lease without a task make the lengths equal, they differ again
// when that lease has expired and is removed.
func (r *Repairer) leaseOrphans(ctx context.Context, q queue) error {
	limited, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	keys := []string{asynqx.ActiveKey(q.name), asynqx.LeaseKey(q.name)}
	var active, leases *redis.IntCmd
	_, err := r.cfg.Redis.Pipelined(limited, func(p redis.Pipeliner) error {
		active, leases = p.LLen(limited, keys[0]), p.ZCard(limited, keys[1])
		return nil
	})
	if err != nil {
		return fmt.Errorf("count leases: %w", err)
	}
	if active.Val() == leases.Val() {
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
