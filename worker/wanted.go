package worker

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
)

// backlog is how many tasks there are in Redis, by the calls that they make.
type backlog map[gate.Kind]load

type load struct {
	waiting int64 // for a worker; none while the queue is paused
	running int64 // in all workers, as many as they have slots at most
}

// readBacklog reads how many tasks wait and run. That is one round trip of a hundred
// commands, each of which takes the same time however many tasks there are. So every
// worker may do it every ten seconds. Tasks whose time has not come are not counted.
func (w *Worker) readBacklog(ctx context.Context) error {
	type cmds struct{ pending, active, paused *redis.IntCmd }
	queues := make(map[string]cmds)
	var workers *redis.IntCmd
	_, err := w.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		workers = p.ZCount(ctx, asynqx.AllServersKey, strconv.FormatInt(time.Now().Unix(), 10), "+inf")
		for queue := range tasks.QueueWeights() {
			if _, calls := backlogKind(queue); calls {
				queues[queue] = cmds{p.LLen(ctx, asynqx.PendingKey(queue)), p.LLen(ctx, asynqx.ActiveKey(queue)), p.Exists(ctx, asynqx.PausedKey(queue))}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the lengths of the queues: %w", err)
	}
	b := make(backlog)
	for queue, c := range queues {
		kind, _ := backlogKind(queue)
		l := b[kind]
		l.running += c.active.Val()
		if c.paused.Val() == 0 {
			l.waiting += c.pending.Val()
		}
		b[kind] = l
	}
	slots := max(workers.Val(), 1) * int64(w.cfg.Concurrency)
	for kind, l := range b { // the others are fetched, or their outcomes are being stored
		l.running = min(l.running, slots)
		b[kind] = l
	}
	w.backlog.Store(&b)
	return nil
}

// backlogKind returns the calls that the tasks of a queue make, if they make any. Dead
// letters that are replayed count as unbinds, which most of them are.
func backlogKind(queue string) (gate.Kind, bool) {
	if queue == tasks.QueueDeadLetter {
		return gate.Unbind, true
	}
	return callsOf(queue)
}

const (
	// drainIn is the time within which the backlog should be done, if KooDrive allows it.
	drainIn = 10 * time.Minute
	// callShare is the share of a worker's slots that make calls at a time. In the others
	// tasks come and go.
	callShare = 0.75
	// longCall is the longest time that a call counts with. If calls take longer,
	// KooDrive is overloaded, and more of them at a time would take even longer.
	longCall = 2 * time.Second
)

// workersWanted returns how many workers with the concurrency of this one would be of
// use, for an autoscaler. It is
//
//	min(by quota, max(by backlog, busy))
//
// for each kind of calls, added up and rounded up, and at least 1: without a worker nobody
// would see the next task. By Little's law the calls in flight are calls a second × the
// seconds that a call takes. So
//
//	by quota   = quota × seconds a call takes / calls in flight of one worker
//	by backlog = tasks that wait / drainIn × seconds a call takes / calls in flight of one worker
//	busy       = tasks that run / concurrency
//
// Workers beyond the first would only wait for the quota. The second is what it takes to be
// done in ten minutes. The third keeps a fleet that keeps up with its tasks, and so has
// no backlog. It never exceeds the number of workers, so it adds none.
//
// No term depends on how many workers there are, but for busy. So the number does not
// drive itself up, except if KooDrive becomes slower the more is called, and refuses
// nothing; longCall is the limit of that. While a breaker is not closed, or a quota is
// used up, no workers are wanted for the calls that cannot be made.
//
// All workers read the same figures, except for the seconds that their own calls take, so
// that they come to about the same number. It is exact enough for an autoscaler: a task
// counts as one call, and an unbind as two if lately a list was called for each. A
// worker that has made no calls of a kind knows only how many workers are busy.
func workersWanted(cfg Config, s gate.Status, b backlog) int {
	inFlight := math.Max(1, callShare*float64(cfg.Concurrency))
	if cfg.MaxInFlight > 0 {
		inFlight = min(inFlight, float64(cfg.MaxInFlight))
	}
	wanted, slowest := 0.0, 0.0
	for kind, l := range b {
		if l == (load{}) || s.Breakers[kind].State != gate.Closed {
			continue
		}
		seconds := secondsOf(kind, s)
		slowest = max(slowest, seconds)
		busy := float64(l.running) / float64(cfg.Concurrency)
		n := max(float64(l.waiting)/drainIn.Seconds()*seconds/inFlight, busy)
		if limit := gate.LowestLimit(s.Quotas[kind].Rate, s.Shared, cfg.Rate); limit > 0 && seconds > 0 {
			n = min(n, limit*seconds/inFlight)
		}
		wanted += n
	}
	if limit := gate.LowestLimit(s.Shared, cfg.Rate); limit > 0 && slowest > 0 {
		wanted = min(wanted, limit*slowest/inFlight)
	}
	const rounding = 1e-9
	return max(1, int(math.Ceil(wanted-rounding)))
}

// secondsOf returns how long the calls of a task take, 0 if that is not known. The guard
// of an old unbind lists the user's devices first.
func secondsOf(kind gate.Kind, s gate.Status) float64 {
	mean := func(kind gate.Kind) float64 { return min(s.Quotas[kind].Lately.Mean(), longCall.Seconds()) }
	seconds := mean(kind)
	if calls, lists := s.Quotas[kind].Lately.Calls, s.Quotas[gate.List].Lately.Calls; kind == gate.Unbind && seconds > 0 {
		seconds += mean(gate.List) * min(lists/calls, 1)
	}
	return seconds
}

// workersWanted is workersWanted by what is known now.
func (w *Worker) workersWanted() int {
	b := w.backlog.Load()
	if b == nil {
		return 1
	}
	return workersWanted(w.cfg, w.gate.Status(), *b)
}
