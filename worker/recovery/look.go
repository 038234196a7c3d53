package recovery

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
)

// sight is what one look has seen of a queue.
type sight struct {
	hasExpired, hasOrphans, hasArchived, isPaused bool
	isUnlisted                                    bool // asynq does not know the queue, and should
	hasWaiting                                    bool // in pending, scheduled or retry
}

// look sees what each queue needs, all in one round trip to each master, so that queues in
// which all is well cost hardly anything. A queue that cannot be read needs everything: its
// repairs tell what is wrong with it. A queue whose master does not answer needs nothing now.
// They have no sight, and the error tells of them.
func (r *Repairer) look(ctx context.Context) (map[string]sight, error) {
	if len(r.queues) == 0 {
		return nil, nil
	}
	limited, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	names := make([]any, len(r.queues))
	for i, q := range r.queues {
		names[i] = q.name
	}
	var listed *redis.BoolSliceCmd
	seen := make([]queueReplies, len(r.queues))
	// The list of queues has a key of its own, and so perhaps another master.
	questions := []question{{asynqx.AllQueuesKey, func(p redis.Pipeliner) { listed = p.SMIsMember(limited, asynqx.AllQueuesKey, names...) }}}
	for i, q := range r.queues {
		questions = append(questions, question{asynqx.LeaseKey(q.name), func(p redis.Pipeliner) { seen[i] = r.ask(limited, p, q) }})
	}
	asynqx.EachMaster(limited, r.cfg.Redis, questions, question.keyOf, func(questions []question) {
		asynqx.EachReply(r.cfg.Redis.Pipelined(limited, func(p redis.Pipeliner) error {
			for _, q := range questions {
				q.ask(p)
			}
			return nil
		}))
	})
	if err := listed.Err(); err != nil && !r.isSilent(err) {
		return nil, fmt.Errorf("look into the queues: %w", err)
	}
	out := make(map[string]sight, len(r.queues))
	var expired []redis.Z
	var silent error
	for i, q := range r.queues {
		if err := seen[i].active.Err(); r.isSilent(err) {
			silent = fmt.Errorf("queue %s: %w", q.name, err)
			continue
		}
		r.reached(q.name)
		out[q.name] = r.see(q, seen[i], listed.Err() != nil || listed.Val()[i])
		expired = append(expired, seen[i].expired.Val()...)
	}
	r.noteFetched(expired)
	return out, silent
}

// question is a part of a look, about a key.
type question struct {
	key string
	ask func(redis.Pipeliner)
}

func (q question) keyOf() string { return q.key }

// queueReplies are the answers about one queue.
type queueReplies struct {
	expired                   *redis.ZSliceCmd
	active, leases, late      *redis.IntCmd
	archived, paused, waiting *redis.IntCmd
}

func (r *Repairer) ask(ctx context.Context, p redis.Pipeliner, q queue) queueReplies {
	lease := asynqx.LeaseKey(q.name)
	return queueReplies{
		expired: p.ZRangeByScoreWithScores(ctx, lease, &redis.ZRangeBy{Min: "-inf", Max: r.expiredBefore(), Count: mostFetched}),
		active:  p.LLen(ctx, asynqx.ActiveKey(q.name)), leases: p.ZCard(ctx, lease),
		late:     p.ZCount(ctx, lease, strconv.FormatInt(r.uptime.last.Add(tooLate).Unix(), 10), "+inf"),
		archived: p.Exists(ctx, asynqx.ArchivedKey(q.name)), paused: p.Exists(ctx, asynqx.PausedKey(q.name)),
		waiting: p.Exists(ctx, asynqx.PendingKey(q.name), asynqx.ScheduledKey(q.name), asynqx.RetryKey(q.name)),
	}
}

func (r *Repairer) see(q queue, s queueReplies, isListed bool) sight {
	isBroken := s.expired.Err() != nil || s.active.Err() != nil || s.leases.Err() != nil
	_, lane := tasks.SplitQueue(q.name)
	hasWaiting := s.waiting.Val() > 0 || s.waiting.Err() != nil
	hasAny := hasWaiting || s.active.Val()+s.archived.Val() > 0
	return sight{
		hasExpired:  isBroken || len(s.expired.Val()) > 0,
		hasOrphans:  isBroken || s.active.Val() != s.leases.Val() || s.late.Val() > 0,
		hasArchived: isBroken || s.archived.Err() != nil || s.archived.Val() > 0,
		isPaused:    s.paused.Val() > 0 || s.paused.Err() != nil && r.paused[q.name],
		hasWaiting:  hasWaiting,
		isUnlisted:  !isListed && (lane == tasks.LaneSingle || hasAny), // a lane only if it is used
	}
}

// mostFetched is how many expired leases of a queue are looked at together. All that a worker
// may have fetched and not begun are fewer.
const mostFetched = 20_000

// dead are processes that died together. They ran at most so many tasks at once.
type dead struct {
	begun int     // tasks that may have begun, so far
	upTo  float64 // the lease of the latest of them
}

// noteFetched finds out which of the tasks with expired leases may have begun when their
// workers died. Tasks begin in the order in which they were fetched, whatever their queues,
// and their leases are in that order. So of those whose lease was never extended, as many
// may have begun as the worker ran at once.
func (r *Repairer) noteFetched(leases []redis.Z) {
	slices.SortFunc(leases, func(a, b redis.Z) int { return cmp.Compare(a.Score, b.Score) })
	for _, z := range leases {
		died := owners(r.servers.diedNear(leaseWritten(z.Score)), z.Score)
		if len(died) == 0 {
			continue
		}
		slots, isKnown := r.servers.slotsOf(died)
		if len(r.dead) >= maxServers {
			clear(r.dead) // of deaths that are long over
		}
		d := r.dead[nameOf(died)]
		if z.Score > d.upTo && (!isKnown || d.begun < slots) {
			r.dead[nameOf(died)] = dead{d.begun + 1, z.Score}
		}
	}
}

// mayHaveBegun reports whether a task may have begun when its workers died.
func (r *Repairer) mayHaveBegun(died map[string]time.Time, lease float64) bool {
	died = owners(died, lease)
	return len(died) == 0 || lease <= r.dead[nameOf(died)].upTo
}

// owners returns those of some processes of which a lease may be. It returns none if the
// lease does not tell: asynq has written it, or an older version.
func owners(died map[string]time.Time, lease float64) map[string]time.Time {
	tag := int64(math.Round(lease*1e6)) % asynqx.LeaseStep
	out := make(map[string]time.Time, 1)
	for process, at := range died {
		if asynqx.LeaseTag(process) == tag {
			out[process] = at
		}
	}
	return out
}

// nameOf names processes that died together.
func nameOf(died map[string]time.Time) string {
	var who []string
	for _, process := range slices.Sorted(maps.Keys(died)) {
		who = append(who, process, died[process].String())
	}
	return strings.Join(who, " ")
}

// register adds the queue to asynq's list of queues, which asynq's clients do only
// once in their lives.
func (r *Repairer) register(ctx context.Context, q queue) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	added, err := r.cfg.Redis.SAdd(ctx, asynqx.AllQueuesKey, q.name).Result()
	if err != nil {
		return fmt.Errorf("register the queue: %w", err)
	}
	if added > 0 {
		r.cfg.OnRepair(q.name, Registered, 1)
		r.log.Info("registered the queue", zap.String("queue", q.name))
	}
	return nil
}

// countPause counts the pauses of the queue. The pause stays, since an operator has paused the
// queue for a reason; package worker logs it. Repairs continue meanwhile, since none of them
// runs a task.
func (r *Repairer) countPause(q queue, isPaused bool) {
	if isPaused && !r.paused[q.name] {
		r.cfg.OnRepair(q.name, Paused, 1)
	}
	r.paused[q.name] = isPaused
}
