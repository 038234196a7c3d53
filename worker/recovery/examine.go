package recovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
)

// Fault is what [Examine] has found of one kind in one queue.
type Fault struct {
	Queue string
	// Repair is what a Repairer does about it.
	Repair Repair
	// IsPending: the IDs wait in the pending list. There a Repairer leaves them alone. A worker
	// takes them in their turn, and when their lease has expired, the Repairer acts.
	IsPending bool
	// N is how many tasks it concerns; of a queue that is not registered how many wait there.
	N int64
	// IDs are the first of them, up to maxFaultIDs.
	IDs []string
}

// place is where a fault is among those of its queue and kind.
func (f Fault) place() int {
	if f.IsPending {
		return 1
	}
	return 0
}

// maxFaultIDs is how many IDs a Fault has at most.
const maxFaultIDs = 3

// ExamineOptions say how much Examine reads. The zero value reads a few keys of each queue.
type ExamineOptions struct {
	// Queues are the queues to examine. Default: those of tasks.QueueWeights.
	Queues []string
	// Scan reads every task as well: only so are tasks found that are in no set, and IDs
	// without a readable task.
	Scan bool
	// OnScan is called with the number of keys and pending IDs that were read so far. May be nil.
	OnScan func(read int64)
}

// overdue is for how long a lease must have expired to be a fault. A worker repairs it
// within some ten seconds.
const overdue = time.Minute

// Examine finds what a Repairer would repair, and changes nothing. It returns what it has
// found, in the order of the queues, also if it ends with an error. It needs no lock.
//
// With Scan it pauses after each page for as long as the page took, so that Redis has at least
// half of its time for others.
func Examine(ctx context.Context, rdb redis.UniversalClient, o ExamineOptions) ([]Fault, error) {
	if rdb == nil {
		return nil, errors.New("recovery: Examine wants a client of Redis")
	}
	if o.Queues == nil {
		o.Queues = slices.Sorted(maps.Keys(tasks.QueueWeights()))
	}
	x := examination{r: &Repairer{cfg: Config{Redis: rdb}, servers: make(serverRegistry)}, faults: make(map[faultKey]*Fault), onScan: o.OnScan}
	for _, name := range o.Queues {
		x.r.queues = append(x.r.queues, queue{name: name, dead: name == tasks.QueueDeadLetter})
	}
	err := x.look(ctx)
	if err == nil && o.Scan {
		err = errors.Join(x.scanKeys(ctx), x.scanSets(ctx), x.scanPending(ctx))
	}
	return x.list(), err
}

type faultKey struct {
	queue     string
	repair    Repair
	isPending bool
}

// examination is one call of Examine.
type examination struct {
	r      *Repairer // for its reading methods; it holds no lock
	faults map[faultKey]*Fault
	onScan func(int64)
	read   int64
}

func (x *examination) add(q queue, repair Repair, n int64, ids ...string) {
	x.addTo(faultKey{q.name, repair, false}, n, ids...)
}

func (x *examination) addTo(key faultKey, n int64, ids ...string) {
	if n == 0 {
		return
	}
	f := x.faults[key]
	if f == nil {
		f = &Fault{Queue: key.queue, Repair: key.repair, IsPending: key.isPending}
		x.faults[key] = f
	}
	f.N += n
	f.IDs = append(f.IDs, ids[:min(len(ids), maxFaultIDs-len(f.IDs))]...)
}

// list returns the faults by queue, and within a queue by kind, those of pending IDs last.
func (x *examination) list() (out []Fault) {
	for _, f := range x.faults {
		out = append(out, *f)
	}
	slices.SortFunc(out, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Queue, b.Queue), cmp.Compare(a.Repair, b.Repair), cmp.Compare(a.place(), b.place()))
	})
	return out
}

// unleasedCmd is leaseCmd without its write.
//
// KEYS[1] -> asynq:{<queue>}:active
// KEYS[2] -> asynq:{<queue>}:lease
// --
// ARGV[1] -> the first index in active
// ARGV[2] -> the last one
//
// Returns the IDs that have no lease. It is atomic.
var unleasedCmd = redis.NewScript(`
local out = {}
for _, id in ipairs(redis.call("LRANGE", KEYS[1], ARGV[1], ARGV[2])) do
  if not redis.call("ZSCORE", KEYS[2], id) then table.insert(out, id) end
end
return out
`)

// look finds what can be seen without reading every task.
func (x *examination) look(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	now, err := x.r.cfg.Redis.Time(limited).Result()
	if err != nil {
		return fmt.Errorf("read Redis' clock: %w", err)
	}
	if err := x.r.servers.refresh(ctx, x.r.cfg.Redis); err != nil {
		return err
	}
	listed, err := x.r.cfg.Redis.SMembers(limited, asynqx.AllQueuesKey).Result()
	if err != nil {
		return fmt.Errorf("list the queues: %w", err)
	}
	var failed []error
	for _, q := range x.r.queues {
		if err := x.lookInto(ctx, q, now, slices.Contains(listed, q.name)); err != nil {
			failed = append(failed, fmt.Errorf("queue %s: %w", q.name, err))
		}
	}
	return errors.Join(failed...)
}

func (x *examination) lookInto(ctx context.Context, q queue, now time.Time, isListed bool) error {
	limited, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	var pending, active, scheduled, retry, archived *redis.IntCmd
	var firstArchived *redis.StringSliceCmd
	var expired *redis.ZSliceCmd
	_, err := x.r.cfg.Redis.Pipelined(limited, func(p redis.Pipeliner) error {
		pending, active = p.LLen(limited, asynqx.PendingKey(q.name)), p.LLen(limited, asynqx.ActiveKey(q.name))
		scheduled, retry = p.ZCard(limited, asynqx.ScheduledKey(q.name)), p.ZCard(limited, asynqx.RetryKey(q.name))
		archived = p.ZCard(limited, asynqx.ArchivedKey(q.name))
		firstArchived = p.ZRange(limited, asynqx.ArchivedKey(q.name), 0, maxFaultIDs-1)
		expired = p.ZRangeByScoreWithScores(limited, asynqx.LeaseKey(q.name), &redis.ZRangeBy{
			Min: "-inf", Max: strconv.FormatInt(now.Add(-overdue).Unix(), 10), Count: mostFetched,
		})
		return nil
	})
	if err != nil {
		return fmt.Errorf("look into the queue: %w", err)
	}
	x.add(q, Collected, archived.Val(), firstArchived.Val()...)
	if n := pending.Val() + active.Val() + scheduled.Val() + retry.Val() + archived.Val(); n > 0 && !isListed {
		x.add(q, Registered, n)
	}
	items := make([]item, len(expired.Val()))
	for i, z := range expired.Val() {
		id, _ := z.Member.(string)
		items[i] = item{id: id, score: z.Score}
	}
	if items, err = x.r.withoutOwner(ctx, items); err != nil {
		return err
	}
	x.addItems(q, Requeued, items)
	// A lease without a task may even out a task without a lease, so the numbers do not tell.
	for first := int64(0); first < active.Val(); first += orphanChunk {
		ids, err := x.r.run(ctx, unleasedCmd, []string{asynqx.ActiveKey(q.name), asynqx.LeaseKey(q.name)}, first, first+orphanChunk-1).StringSlice()
		if err != nil {
			return fmt.Errorf("look for active tasks without a lease: %w", err)
		}
		x.add(q, Leased, int64(len(ids)), ids...)
	}
	return nil
}

func (x *examination) addItems(q queue, repair Repair, items []item) {
	for _, it := range items {
		x.add(q, repair, 1, it.id)
	}
}

// scanKeys reads the keys of all masters, and finds the tasks that are in no set. A master that
// is down does not stop the scan of the others.
func (x *examination) scanKeys(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, opTimeout)
	masters, err := mastersOf(limited, x.r.cfg.Redis)
	cancel()
	if err != nil {
		return err
	}
	var failed []error
	for _, m := range masters {
		err := x.eachPage(ctx, func(ctx context.Context, at uint64) (uint64, error) {
			keys, next, err := m.Scan(ctx, at, asynqx.KeyPrefix+"*", pageKeys).Result()
			if err != nil {
				return 0, fmt.Errorf("scan the keys: %w", err)
			}
			for _, q := range x.r.queues {
				for ids := range slices.Chunk(q.idsOf(keys), restoreChunk) {
					items, err := x.r.stranded(ctx, q, ids)
					if err != nil {
						return 0, fmt.Errorf("queue %s: %w", q.name, err)
					}
					for _, it := range items {
						x.add(q, it.repair(), 1, it.id)
					}
				}
			}
			if x.read += int64(len(keys)); x.onScan != nil {
				x.onScan(x.read)
			}
			return next, nil
		})
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// repair is what becomes of a task that is in no set.
func (it item) repair() Repair {
	switch {
	case it.raw == nil:
		return Lost
	case it.err != nil:
		return Quarantined
	case it.state == "archived":
		return Collected
	case it.state == "completed":
		return Stray
	default:
		return Restored
	}
}

// scanSets reads the tasks that wait for their time, and finds those without a message.
func (x *examination) scanSets(ctx context.Context) error {
	var failed []error
	for _, q := range x.r.queues {
		for _, in := range []setIndex{inScheduled, inRetry} {
			err := x.eachPage(ctx, func(ctx context.Context, at uint64) (uint64, error) {
				items, next, err := x.r.withoutMessage(ctx, q, in, at)
				if err != nil {
					return 0, fmt.Errorf("queue %s: %w", q.name, err)
				}
				x.addItems(q, Lost, items)
				return next, nil
			})
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// eachPage reads page after page, until the next one is 0, with pauses.
func (x *examination) eachPage(ctx context.Context, page func(ctx context.Context, at uint64) (next uint64, err error)) error {
	for at := uint64(0); ; {
		began := time.Now()
		next, err := page(ctx, at)
		if err != nil || next == 0 {
			return err
		}
		at = next
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Since(began)):
		}
	}
}
