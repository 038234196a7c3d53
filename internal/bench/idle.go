package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/kooworker/kooworker/enqueue"
)

// measureIdle measures a worker that has nothing to do, and then single tasks.
func (b *bench) measureIdle(ctx context.Context) error {
	if err := b.flush(ctx); err != nil {
		return err
	}
	warmUp := min(1000, b.drain)
	if err := seedSingles(ctx, b.redis.client, warmUp); err != nil {
		return err
	}
	calls := b.api.expect(warmUp)
	worker, err := b.startWorker(b.redis.addr, b.concurrency)
	if err != nil {
		return err
	}
	defer worker.kill()
	if err := b.awaitDrained(ctx, worker, calls, drainInterval, func() error { return nil }); err != nil {
		return err
	}
	if err := b.check(ctx, calls, false); err != nil {
		return err
	}
	b.progressf("idle: nothing to do for %s, then %s single tasks", b.idle, number(float64(b.samples)))
	if err := b.measureCPU(ctx, worker); err != nil {
		return err
	}
	if err := b.measureLatency(ctx, worker); err != nil {
		return err
	}
	return worker.stop()
}

// measureCPU measures the CPU time of an idle worker and its Redis.
func (b *bench) measureCPU(ctx context.Context, worker *process) error {
	const calm = 2 * time.Second // what the tasks before left to do
	if err := letPass(ctx, worker, min(calm, b.idle)); err != nil {
		return err
	}
	processes := []*process{worker, b.redis.process}
	before, err := cpuOf(processes)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := letPass(ctx, worker, b.idle); err != nil {
		return err
	}
	after, err := cpuOf(processes)
	if err != nil {
		return err
	}
	seconds, sum := time.Since(began).Seconds(), 0.0
	for i, name := range []string{"worker", "Redis"} {
		share := (after[i] - before[i]).Seconds() / seconds * 100
		sum += share
		b.report.add(figure{Section: "idle", Name: name + ": CPU", Unit: "% of a core", Rounds: []float64{share}})
	}
	b.report.add(figure{Section: "idle", Name: "both: CPU", Unit: "% of a core", Rounds: []float64{sum}, Target: below(3)})
	return nil
}

// letPass waits, unless the process ends.
func letPass(ctx context.Context, p *process, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-p.exited:
		return p.failure()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// measureLatency enqueues single tasks at random times, and measures from before the
// call of enqueue to the arrival of the call at the API.
func (b *bench) measureLatency(ctx context.Context, worker *process) error {
	client, err := enqueue.New(enqueue.Config{Redis: b.redis.client})
	if err != nil {
		return err
	}
	calls := b.api.expect(b.samples)
	enqueued := make([]time.Duration, b.samples) // since calls.began
	for i := range b.samples {
		const shortest, spread = 10 * time.Millisecond, 100 * time.Millisecond
		if err := letPass(ctx, worker, shortest+rand.N(spread)); err != nil { //nolint:gosec // G404: no secret
			return err
		}
		enqueued[i] = time.Since(calls.began)
		if _, err := client.Unbind(ctx, task(i)); err != nil {
			return err
		}
	}
	if err := b.awaitDrained(ctx, worker, calls, drainInterval, func() error { return nil }); err != nil {
		return err
	}
	latencies := make([]float64, b.samples) // in ms
	for i := range latencies {
		latencies[i] = float64(time.Duration(calls.first[i].Load())-enqueued[i]) / float64(time.Millisecond)
	}
	slices.Sort(latencies)
	name := fmt.Sprintf("from enqueue to call, %s single tasks: ", number(float64(b.samples)))
	b.report.add(figure{Section: "idle", Name: name + "median", Unit: "ms", Rounds: []float64{median(latencies)}, Target: below(15)})
	b.report.add(figure{Section: "idle", Name: name + "p99", Unit: "ms", Rounds: []float64{latencies[(len(latencies)*99+99)/100-1]}, Target: below(60)})
	return b.check(ctx, calls, false)
}
