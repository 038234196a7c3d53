package recovery

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
)

// scanPosition is where the scan continues. The scan searches for hashes whose ID is
// in no set, and for IDs in scheduled and retry without a hash. For that it must
// read everything, so it reads one page in each pass: of a queue's hashes, of its
// scheduled set, of its retry set, and then of the next queue's. SCAN and ZSCAN
// return every element that exists during the whole scan. The next scan finds the
// others.
type scanPosition struct {
	queue  int
	step   int // an index of scanSteps
	cursor uint64
}

// scanSteps are the sets that are scanned in each queue. inNoSet stands for the
// tasks' hashes.
var scanSteps = []setIndex{inNoSet, inScheduled, inRetry}

const (
	// hashPage is how many of Redis' keys one page visits, and idPage how many IDs
	// of a set.
	hashPage = 1000
	idPage   = 200
)

// scanPage scans the next page. A page that failed is scanned again.
func (r *Repairer) scanPage(ctx context.Context) error {
	if len(r.queues) == 0 {
		return nil
	}
	if err := r.ensureLock(ctx); err != nil {
		return err
	}
	at := &r.scan
	q, in := r.queues[at.queue], scanSteps[at.step]
	var next uint64
	var err error
	if in == inNoSet {
		next, err = r.scanHashes(ctx, q, at.cursor)
	} else {
		next, err = r.scanIDs(ctx, q, in, at.cursor)
	}
	if err != nil {
		return fmt.Errorf("scan queue %s: %w", q.name, err)
	}
	at.cursor = next
	if next != 0 {
		return nil
	}
	if at.step++; at.step == len(scanSteps) {
		at.step, at.queue = 0, (at.queue+1)%len(r.queues)
	}
	return nil
}

// scanHashes scans a page of the queue's hashes. In a cluster it asks the node
// that has them.
func (r *Repairer) scanHashes(ctx context.Context, q queue, at uint64) (next uint64, err error) {
	limited, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	prefix := asynqx.TaskKeyPrefix(q.name)
	var node redis.Cmdable = r.cfg.Redis
	if cluster, ok := r.cfg.Redis.(*redis.ClusterClient); ok {
		if node, err = cluster.MasterForKey(limited, prefix); err != nil {
			return at, err
		}
	}
	found, next, err := node.Scan(limited, at, prefix+"*", hashPage).Result()
	if err != nil {
		return at, err
	}
	for i, key := range found {
		found[i] = strings.TrimPrefix(key, prefix)
	}
	for ids := range slices.Chunk(found, chunk) {
		if err := r.restore(ctx, q, ids); err != nil {
			return at, err
		}
	}
	return next, nil
}

// scanIDs scans a page of a sorted set for IDs without a message, and removes
// them. asynq would move such an ID to pending and then to active, where it would
// make a hash that has a state and nothing else.
func (r *Repairer) scanIDs(ctx context.Context, q queue, in setIndex, at uint64) (next uint64, err error) {
	limited, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	pairs, next, err := r.cfg.Redis.ZScan(limited, q.keys()[in-1], at, "", idPage).Result()
	if err != nil {
		return at, err
	}
	seen := make([]redis.Z, len(pairs)/2)
	for i := range seen {
		seen[i].Member = pairs[2*i]
		if seen[i].Score, err = strconv.ParseFloat(pairs[2*i+1], 64); err != nil {
			return at, fmt.Errorf("read the score of %s: %w", pairs[2*i], err)
		}
	}
	items, err := r.read(ctx, q, in, seen)
	if err != nil {
		return at, err
	}
	for _, it := range items {
		if it.raw != nil {
			continue
		}
		if err := r.remove(ctx, q, it, Lost); err != nil {
			return at, err
		}
	}
	return next, nil
}
