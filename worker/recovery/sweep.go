package recovery

import (
	"context"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

// The sweep looks for what is out of place without showing it: hashes that no
// set names, and IDs in scheduled and retry that have no hash. That takes a look
// at everything, so it goes a page a pass: through the hashes of one queue, its
// scheduled set, its retry set, and on to the next queue. Both kinds of scan
// find whatever was there all the time, and what was not can wait for the next
// round.
type sweep struct {
	queue  int
	kind   int // an index of sweeps
	cursor uint64
}

const (
	// hashPage is how many keys of Redis one page visits, and idPage how many
	// IDs of a set.
	hashPage = 1000
	idPage   = 200
)

// sweepOn does the next page. A page that failed is done again.
func (r *Repairer) sweepOn(ctx context.Context) error {
	if len(r.queues) == 0 {
		return nil
	}
	if err := r.keep(ctx); err != nil {
		return err
	}
	q := r.queues[r.sweep.queue]
	sweeps := []func(context.Context, queue, uint64) (uint64, error){
		r.sweepHashes,
		func(ctx context.Context, q queue, at uint64) (uint64, error) {
			return r.sweepIDs(ctx, q, inScheduled, q.scheduled, at)
		},
		func(ctx context.Context, q queue, at uint64) (uint64, error) {
			return r.sweepIDs(ctx, q, inRetry, q.retry, at)
		},
	}
	next, err := sweeps[r.sweep.kind](ctx, q, r.sweep.cursor)
	if err != nil {
		return fmt.Errorf("sweep queue %s: %w", q.name, err)
	}
	r.sweep.cursor = next
	if next != 0 {
		return nil
	}
	if r.sweep.kind++; r.sweep.kind == len(sweeps) {
		r.sweep.kind, r.sweep.queue = 0, (r.sweep.queue+1)%len(r.queues)
	}
	return nil
}

// sweepHashes does a page of the queue's hashes. In a cluster it asks the node
// that has them.
func (r *Repairer) sweepHashes(ctx context.Context, q queue, at uint64) (uint64, error) {
	limited, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	var node redis.Cmdable = r.cfg.Redis
	if cluster, ok := r.cfg.Redis.(*redis.ClusterClient); ok {
		master, err := cluster.MasterForKey(limited, q.active)
		if err != nil {
			return at, err
		}
		node = master
	}
	found, next, err := node.Scan(limited, at, q.tasks+"*", hashPage).Result()
	if err != nil {
		return at, err
	}
	for len(found) > 0 {
		n := min(chunk, len(found))
		ids := make([]string, n)
		for i, key := range found[:n] {
			ids[i] = strings.TrimPrefix(key, q.tasks)
		}
		if err := r.restore(ctx, q, ids); err != nil {
			return at, err
		}
		found = found[n:]
	}
	return next, nil
}

// sweepIDs does a page of a sorted set. asynq moves an ID without a hash to
// pending and then to active, where it makes a hash that has a state and nothing
// else; it can as well go at once.
func (r *Repairer) sweepIDs(ctx context.Context, q queue, where place, set string, at uint64) (uint64, error) {
	limited, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	pairs, next, err := r.cfg.Redis.ZScan(limited, set, at, "", idPage).Result()
	if err != nil {
		return at, err
	}
	var there []*redis.BoolCmd
	_, _ = r.cfg.Redis.Pipelined(limited, func(p redis.Pipeliner) error {
		for i := 0; i+1 < len(pairs); i += 2 {
			there = append(there, p.HExists(limited, q.tasks+pairs[i], hashMsg))
		}
		return nil
	})
	var ghosts []redis.Z
	for i, cmd := range there {
		has, err := cmd.Result()
		if err != nil && !redis.HasErrorPrefix(err, "WRONGTYPE") {
			return at, err
		}
		if has {
			continue
		}
		score, err := r.cfg.Redis.ZScore(limited, set, pairs[2*i]).Result()
		if err != nil {
			continue // it has just left
		}
		ghosts = append(ghosts, redis.Z{Member: pairs[2*i], Score: score})
	}
	if len(ghosts) == 0 {
		return next, nil
	}
	items, err := r.read(ctx, q, where, ghosts)
	if err != nil {
		return at, err
	}
	for _, it := range items {
		if it.raw != nil {
			continue
		}
		if err := r.drop(ctx, q, it); err != nil {
			return at, err
		}
	}
	return next, nil
}
