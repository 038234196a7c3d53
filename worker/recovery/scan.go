package recovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
)

// scanPosition is where the scan continues. The scan searches for hashes whose ID is
// in no set, and for IDs in scheduled and retry without a hash. For that it must
// read everything: first the keys of each master, whichever queue they belong to, and
// then the scheduled and the retry set of each queue. SCAN and ZSCAN return every
// element that exists during the whole scan. The next scan finds the others.
type scanPosition struct {
	master string // the address of the master whose keys are read; "" before the first
	set    int    // the set that is read, counted from 1; 0 while keys are read
	cursor uint64 // in the keys or in the set
}

const (
	// workerScanShare is the part of the time of a worker's repairer, and so the greatest
	// part of Redis' time, that the scan takes. Redis is read page by page, until this part of
	// the interval has passed. So a Redis that is far away or busy is read more slowly.
	workerScanShare = 0.02
	// pageKeys is how many of Redis' keys one page visits, and pageIDs how many IDs of a
	// set. A page holds Redis for a millisecond or two.
	pageKeys = 500
	pageIDs  = 500
)

// scanPages scans pages until its time for this pass is over, at least one, and each
// key at most once. After a failure it goes on in the next pass, with the next page: the
// keys of one queue may be broken, and must not stop the scan of the others. What it
// has not read so it reads in the next scan.
func (r *Repairer) scanPages(ctx context.Context, seen map[string]sight) error {
	if len(r.queues) == 0 {
		return nil
	}
	for began := time.Now(); ; {
		if err := r.ensureLock(ctx); err != nil {
			return err
		}
		if err := r.scanPage(ctx, seen); err != nil {
			return fmt.Errorf("scan: %w", err)
		}
		if r.scan == (scanPosition{}) || time.Since(began) >= time.Duration(r.scanShare*float64(r.cfg.Interval)) {
			return nil
		}
	}
}

// scanPage scans the next page. Queues in which nothing waits have none.
func (r *Repairer) scanPage(ctx context.Context, seen map[string]sight) error {
	at := &r.scan
	if at.set == 0 {
		return r.scanKeys(ctx)
	}
	for ; at.set <= 2*len(r.queues); at.set++ {
		q, in := r.queues[(at.set-1)/2], []setIndex{inScheduled, inRetry}[(at.set-1)%2]
		if !seen[q.name].hasWaiting {
			at.cursor = 0
			continue
		}
		next, err := r.scanIDs(ctx, q, in, at.cursor)
		if err != nil {
			err = fmt.Errorf("queue %s: %w", q.name, err)
		}
		if at.cursor = next; next == 0 {
			at.set++
		}
		return err
	}
	*at = scanPosition{}
	r.scans++
	return nil
}

// scanKeys scans a page of a master's keys: the hashes of all queues, and the histories
// of schedules. After the last master it moves on to the sets.
func (r *Repairer) scanKeys(ctx context.Context) error {
	at := &r.scan
	limited, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	masters, err := mastersOf(limited, r.cfg.Redis)
	if err != nil {
		return err
	}
	// If the master has gone meanwhile, the one that follows is scanned from its
	// beginning. The next scan reads what was missed.
	i, found := slices.BinarySearchFunc(masters, at.master, func(m master, addr string) int { return strings.Compare(m.addr, addr) })
	if i == len(masters) {
		*at = scanPosition{set: 1}
		return nil
	}
	if !found {
		*at = scanPosition{master: masters[i].addr}
	}
	keys, next, err := masters[i].Scan(limited, at.cursor, asynqx.KeyPrefix+"*", pageKeys).Result()
	if err != nil && len(masters) == 1 {
		return err // the next pass reads this page again
	}
	// A master that is down, for which next is 0 as well, must not stop the scan of the
	// others.
	switch at.cursor = next; {
	case next != 0:
	case i+1 < len(masters):
		at.master = masters[i+1].addr
	default:
		*at = scanPosition{set: 1}
	}
	return errors.Join(err, r.restoreHashes(ctx, keys), r.dropHistories(ctx, keys))
}

// master is a node that has keys.
type master struct {
	addr string
	redis.Cmdable
}

// mastersOf returns the nodes that have keys, sorted by their address. A Redis that is
// no cluster is one node, at whatever address.
func mastersOf(ctx context.Context, rdb redis.UniversalClient) ([]master, error) {
	cluster, ok := rdb.(*redis.ClusterClient)
	if !ok {
		return []master{{"one", rdb}}, nil
	}
	var masters []master
	found := make(chan master)
	failed := make(chan error, 1)
	go func() {
		defer close(found)
		failed <- cluster.ForEachMaster(ctx, func(_ context.Context, node *redis.Client) error {
			found <- master{node.Options().Addr, node}
			return nil
		})
	}()
	for m := range found {
		masters = append(masters, m)
	}
	if err := <-failed; err != nil {
		return nil, fmt.Errorf("list the masters: %w", err)
	}
	slices.SortFunc(masters, func(a, b master) int { return strings.Compare(a.addr, b.addr) })
	return masters, nil
}

// restoreHashes restores those tasks of a page of keys that are in no set.
func (r *Repairer) restoreHashes(ctx context.Context, keys []string) error {
	var failed []error
	for _, q := range r.queues {
		for ids := range slices.Chunk(q.idsOf(keys), restoreChunk) {
			if err := r.restore(ctx, q, ids); err != nil {
				failed = append(failed, fmt.Errorf("queue %s: %w", q.name, err))
				break
			}
		}
	}
	return errors.Join(failed...)
}

// idsOf returns the IDs of the queue's tasks among some keys.
func (q queue) idsOf(keys []string) (ids []string) {
	prefix := asynqx.TaskKeyPrefix(q.name)
	for _, key := range keys {
		if id, ok := strings.CutPrefix(key, prefix); ok {
			ids = append(ids, id)
		}
	}
	return ids
}

// scanIDs scans a page of a sorted set for IDs without a message, and removes
// them. It returns where the next page begins, 0 after the last one or if this one
// cannot be read. asynq would move such an ID to pending and then to active, where it would
// make a hash that has a state and nothing else.
func (r *Repairer) scanIDs(ctx context.Context, q queue, in setIndex, at uint64) (next uint64, err error) {
	items, next, err := r.withoutMessage(ctx, q, in, at)
	if err != nil {
		return next, err
	}
	for _, it := range items {
		if err := r.remove(ctx, q, it, Lost); err != nil {
			return next, err
		}
	}
	return next, nil
}

// withoutMessage reads a page of a sorted set, and returns the IDs that have no message.
func (r *Repairer) withoutMessage(ctx context.Context, q queue, in setIndex, at uint64) (items []item, next uint64, err error) {
	limited, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	pairs, next, err := r.cfg.Redis.ZScan(limited, q.keys()[in-1], at, "", pageIDs).Result()
	if err != nil || len(pairs) == 0 {
		return nil, next, err // after an error next is 0
	}
	has := make([]*redis.BoolCmd, len(pairs)/2)
	// Each command is asked for its own error: a key that is no hash has no message.
	asynqx.EachReply(r.cfg.Redis.Pipelined(limited, func(p redis.Pipeliner) error {
		for i := range has {
			has[i] = p.HExists(limited, asynqx.TaskKey(q.name, pairs[2*i]), asynqx.FieldMsg)
		}
		return nil
	}))
	var suspects []redis.Z
	for i, cmd := range has {
		ok, err := cmd.Result()
		if err != nil && !redis.HasErrorPrefix(err, "WRONGTYPE") {
			return nil, next, fmt.Errorf("look for the message of %s: %w", pairs[2*i], err)
		}
		if ok {
			continue
		}
		score, err := strconv.ParseFloat(pairs[2*i+1], 64)
		if err != nil {
			return nil, next, fmt.Errorf("read the score of %s: %w", pairs[2*i], err)
		}
		suspects = append(suspects, redis.Z{Member: pairs[2*i], Score: score})
	}
	if items, err = r.read(ctx, q, in, suspects); err != nil {
		return nil, next, err
	}
	return slices.DeleteFunc(items, func(it item) bool { return it.raw != nil }), next, nil
}
