package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

// contender is a worker that drains a queue, near to Redis or far away.
type contender struct {
	name    string
	place   place
	batched bool
	target  *target // of the ratio to plain asynq; nil: it is plain asynq
	start   func(redisAddr string, concurrency int) (*process, error)
	seed    func(ctx context.Context, rdb redis.UniversalClient, n int) error

	next   int // tasks of its next drain
	rounds []drained
}

// drained is what a drain has shown.
type drained struct {
	rate      float64 // tasks a second
	workerCPU float64 // of each task, in µs
	redisCPU  float64
}

// batchID is the batch of the tasks that have one.
const batchID = "bench"

func (b *bench) contenders(at place, single, batched *target) []*contender {
	return []*contender{
		{name: "plain asynq", place: at, start: b.startPlain, seed: seedPlain},
		{name: "kooworker", place: at, target: single, start: b.startWorker, seed: seedSingles},
		{name: "kooworker, batch and receipts", place: at, batched: true, target: batched, start: b.startWorker, seed: seedBatch},
	}
}

// measureDrains lets the contenders take turns, near and far.
func (b *bench) measureDrains(ctx context.Context) error {
	near, far := b.places()
	groups := [][]*contender{
		b.contenders(near, atLeast(1.5), atLeast(1.2)),
		b.contenders(far, atLeast(20), atLeast(15)),
	}
	all := slices.Concat(groups...)
	for _, c := range all {
		c.next = min(b.drain, cmp.Or(b.warmUp, b.drain))
	}
	first := 1
	if b.warmUp > 0 {
		first = 0 // is not counted, and shows how many tasks to take
	}
	for round := first; round <= b.rounds; round++ {
		for _, group := range groups {
			for i := range group {
				c := group[(i+round)%len(group)]
				d, err := b.drainOnce(ctx, c)
				if err != nil {
					return fmt.Errorf("%s, %s, round %d: %w", c.place.name, c.name, round, err)
				}
				b.progressf("drain, round %d of %d, %s, %s: %s tasks/s of %s", round, b.rounds, c.place.name, c.name, number(d.rate), number(float64(c.next)))
				c.next = min(b.drain, max(b.warmUp, int(d.rate*b.time.Seconds())))
				if round > 0 {
					c.rounds = append(c.rounds, d)
				}
			}
		}
	}
	b.reportDrains(groups, all)
	return nil
}

func (b *bench) reportDrains(groups [][]*contender, all []*contender) {
	for _, c := range all {
		b.report.add(figure{Section: "drain", Name: c.place.name + ": " + c.name, Unit: "tasks/s", Rounds: c.values(drained.tasksPerSecond)})
	}
	for _, group := range groups {
		plain := group[0]
		for _, c := range group[1:] {
			b.report.add(figure{
				Section: "drain", Name: c.place.name + ": " + c.name + " / plain asynq", Unit: "times",
				Rounds: ratios(c.values(drained.tasksPerSecond), plain.values(drained.tasksPerSecond)), Target: c.target,
			})
		}
	}
	for _, c := range all {
		name := c.place.name + ": " + c.name + ", CPU time of "
		b.report.add(figure{Section: "cost", Name: name + "the worker", Unit: "µs/task", Rounds: c.values(drained.worker)})
		b.report.add(figure{Section: "cost", Name: name + "Redis", Unit: "µs/task", Rounds: c.values(drained.redis)})
	}
}

func (d drained) tasksPerSecond() float64 { return d.rate }
func (d drained) worker() float64         { return d.workerCPU }
func (d drained) redis() float64          { return d.redisCPU }

// values returns one value of each round.
func (c *contender) values(of func(drained) float64) []float64 {
	var values []float64
	for _, d := range c.rounds {
		values = append(values, of(d))
	}
	return values
}

// drainOnce lets a contender drain a queue.
func (b *bench) drainOnce(ctx context.Context, c *contender) (d drained, err error) {
	if err := b.flush(ctx); err != nil {
		return d, err
	}
	if err := c.seed(ctx, b.redis.client, c.next); err != nil {
		return d, fmt.Errorf("enqueue: %w", err)
	}
	calls := b.api.expect(c.next)
	worker, err := c.start(c.place.addr, b.concurrency)
	if err != nil {
		return d, err
	}
	defer worker.kill()
	processes := []*process{worker, b.redis.process}
	var before []time.Duration
	err = b.awaitDrained(ctx, worker, calls, drainInterval, func() (err error) {
		if before == nil && calls.tenth.Load() > 0 {
			before, err = cpuOf(processes)
		}
		return err
	})
	if err != nil {
		return d, err
	}
	end := time.Now()
	after, err := cpuOf(processes)
	if err != nil {
		return d, err
	}
	n := calls.counted()
	d.rate = n / calls.since(end).Seconds()
	d.workerCPU = float64((after[0] - before[0]).Microseconds()) / n
	d.redisCPU = float64((after[1] - before[1]).Microseconds()) / n
	if err := worker.stop(); err != nil {
		return d, err
	}
	return d, b.check(ctx, calls, c.batched)
}

// drainInterval is how exactly the end of a drain is known.
const drainInterval = 2 * time.Millisecond

// awaitDrained waits until all tasks were called and no queue holds any. It calls watch
// again and again meanwhile.
func (b *bench) awaitDrained(ctx context.Context, worker *process, calls *calls, interval time.Duration, watch func() error) error {
	return await(ctx, worker, interval, func() (left int, err error) {
		if err := watch(); err != nil {
			return 0, err
		}
		if left = len(calls.first) - int(calls.distinct.Load()); left > 0 {
			return left, nil
		}
		return b.queued()
	})
}

// queued returns how many tasks all queues hold, in any state.
func (b *bench) queued() (n int, err error) {
	inspector := asynq.NewInspectorFromRedisClient(b.redis.client)
	queues, err := inspector.Queues()
	if err != nil {
		return 0, err
	}
	for _, queue := range queues {
		info, err := inspector.GetQueueInfo(queue)
		if err != nil {
			return 0, err
		}
		n += info.Size
	}
	return n, nil
}

// check counts the calls. It refuses calls that nobody should have made, and a batch that
// does not have the outcome and the receipt of each task.
func (b *bench) check(ctx context.Context, calls *calls, batched bool) error {
	b.report.Calls.Tasks += calls.distinct.Load()
	b.report.Calls.Repeated += calls.repeated.Load()
	if n := calls.unknown.Load(); n > 0 {
		return fmt.Errorf("the API got %d calls that are about no task; want none", n)
	}
	if !batched {
		return nil
	}
	audit, err := batch.NewStore(b.redis.client).Audit(ctx, batchID)
	if err != nil {
		return err
	}
	want := int64(len(calls.first))
	if done := audit.Stats.Succeeded; !audit.Clean() || done != want || audit.Receipts != want {
		return fmt.Errorf("the batch has %d tasks done, %d receipts and the problems %q; want %d, %d and none", done, audit.Receipts, audit.Problems, want, want)
	}
	return nil
}

// flush empties Redis.
func (b *bench) flush(ctx context.Context) error { return b.redis.client.FlushAll(ctx).Err() }

// seedSingles enqueues tasks 0 to n-1 without a batch.
func seedSingles(ctx context.Context, rdb redis.UniversalClient, n int) error {
	return seed(ctx, rdb, n, enqueue.BulkOptions{})
}

// seedBatch enqueues tasks 0 to n-1 as a batch with receipts.
func seedBatch(ctx context.Context, rdb redis.UniversalClient, n int) error {
	return seed(ctx, rdb, n, enqueue.BulkOptions{Batch: &batch.Spec{ID: batchID}})
}

func seed(ctx context.Context, rdb redis.UniversalClient, n int, o enqueue.BulkOptions) error {
	client, err := enqueue.New(enqueue.Config{Redis: rdb})
	if err != nil {
		return err
	}
	result, err := client.Bulk(ctx, func(yield func(tasks.Task, error) bool) {
		for i := range n {
			if !yield(task(i), nil) {
				return
			}
		}
	}, o)
	if err == nil && result.Enqueued != int64(n) {
		err = fmt.Errorf("%+v; want %d enqueued", result, n)
	}
	return err
}
