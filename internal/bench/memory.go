package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// measureMemory watches the memory of a large worker.
func (b *bench) measureMemory(ctx context.Context) error {
	const concurrency = 256
	if err := b.flush(ctx); err != nil {
		return err
	}
	if err := seedBatch(ctx, b.redis.client, b.memory); err != nil {
		return err
	}
	b.progressf("memory: a worker with a concurrency of %d does %s tasks", concurrency, number(float64(b.memory)))
	calls := b.api.expect(b.memory)
	worker, err := b.startWorker(b.redis.addr, concurrency)
	if err != nil {
		return err
	}
	defer worker.kill()
	var early, peak float64 // early: the peak when a tenth of the tasks had been called
	const interval = 20 * time.Millisecond
	err = b.awaitDrained(ctx, worker, calls, interval, func() (err error) {
		peak, err = worker.peakMemory()
		if calls.tenth.Load() == 0 {
			early = peak
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := worker.stop(); err != nil {
		return err
	}
	name := fmt.Sprintf("worker, concurrency %d, %s tasks of a batch: ", concurrency, number(float64(b.memory)))
	b.report.add(figure{Section: "memory", Name: name + "peak", Unit: "MB", Rounds: []float64{peak / megabyte}, Target: below(80)})
	b.report.add(figure{
		Section: "memory", Name: name + "growth of the peak after the first tenth", Unit: "%",
		Rounds: []float64{(peak/early - 1) * 100}, Target: below(10),
	})
	return b.check(ctx, calls, true)
}

// measureBytes measures the memory that Redis needs for a queued task, as we ship its
// configuration.
func (b *bench) measureBytes(ctx context.Context) error {
	server, err := startRedis(ctx, b.dir, b.redisConf)
	if err != nil {
		return err
	}
	defer server.stop()
	rdb := server.client
	for _, kind := range []struct {
		name string
		seed func(context.Context, redis.UniversalClient, int) error
	}{
		{"without a batch", seedSingles},
		{"with a batch", seedBatch},
	} {
		if err := rdb.FlushAll(ctx).Err(); err != nil {
			return err
		}
		before, err := settledMemory(ctx, rdb)
		if err != nil {
			return err
		}
		if err := kind.seed(ctx, rdb, b.bytes); err != nil {
			return err
		}
		after, err := settledMemory(ctx, rdb)
		if err != nil {
			return err
		}
		b.report.add(figure{
			Section: "bytes", Name: fmt.Sprintf("Redis memory for each of %s queued tasks, %s", number(float64(b.bytes)), kind.name), Unit: "bytes",
			Rounds: []float64{(after - before) / float64(b.bytes)}, Target: below(480),
		})
	}
	return nil
}

// settledMemory returns the memory that Redis uses for its data, once it has not changed
// for a while: Redis resizes its tables and rewrites its file in the background.
func settledMemory(ctx context.Context, rdb *redis.Client) (float64, error) {
	const interval, enough, within = 100 * time.Millisecond, 3, 0.001
	tick := time.NewTicker(interval)
	defer tick.Stop()
	limit, cancel := context.WithTimeout(ctx, stallTimeout)
	defer cancel()
	for last, same := 0.0, 0; ; {
		info, err := rdb.InfoMap(limit, "memory", "persistence").Result()
		if err != nil {
			return 0, err
		}
		used, err := strconv.ParseFloat(info["Memory"]["used_memory"], 64)
		if err != nil {
			return 0, fmt.Errorf("INFO memory: %w", err)
		}
		// What clients and the file's buffer take is not data.
		for _, name := range []string{"mem_clients_normal", "mem_aof_buffer"} {
			n, _ := strconv.ParseFloat(info["Memory"][name], 64)
			used -= n
		}
		if same++; max(used, last)-min(used, last) > within*used || info["Persistence"]["aof_rewrite_in_progress"] != "0" {
			same = 0
		}
		if same == enough {
			return used, nil
		}
		last = used
		select {
		case <-limit.Done():
			return 0, fmt.Errorf("the memory of Redis does not settle: %w", limit.Err())
		case <-tick.C:
		}
	}
}
