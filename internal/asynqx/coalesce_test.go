package asynqx

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/redistest"
)

// together is a client whose scripts go together, and the number of its round trips.
func together(t *testing.T) (rdb *redis.Client, trips *atomic.Int64) {
	t.Helper()
	trips = new(atomic.Int64)
	rdb = redistest.Start(t).Client()
	rdb.AddHook(SyncerHook())
	rdb.AddHook(CoalesceHook(rdb))
	rdb.AddHook(tripCounter{trips})
	return rdb, trips
}

type tripCounter struct{ n *atomic.Int64 }

func (tripCounter) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c tripCounter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { c.n.Add(1); return next(ctx, cmd) }
}

func (c tripCounter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { c.n.Add(1); return next(ctx, cmds) }
}

func TestCoalesceHook_EachGetsItsOwnAnswer(t *testing.T) {
	t.Parallel()
	rdb, trips := together(t)
	// It is not known to Redis at first. Every third call fails.
	script := redis.NewScript(`if ARGV[1] % 3 == 0 then return redis.error_reply("NOT FOUND") end return tonumber(ARGV[1])`)
	const n = 3000
	var wg sync.WaitGroup
	slots := make(chan struct{}, 100)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			got, err := script.Run(t.Context(), rdb, nil, i).Int()
			switch fails := i%3 == 0; {
			case fails && (err == nil || err.Error() != "NOT FOUND"):
				t.Errorf("%d: %v; want the script's error", i, err)
			case !fails && (err != nil || got != i):
				t.Errorf("%d: %d, %v; want %d", i, got, err, i)
			}
		})
	}
	wg.Wait()
	if trips := trips.Load(); trips > n/4 {
		t.Errorf("%d round trips for %d scripts; want far fewer", trips, n)
	}
}

func TestCoalesceHook_KeepsDeadlines(t *testing.T) {
	t.Parallel()
	rdb, _ := together(t)
	script := redis.NewScript(`return redis.call("INCR", KEYS[1])`)
	if err := script.Load(t.Context(), rdb).Err(); err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if err := script.Run(over, rdb, []string{"n"}).Err(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a script whose deadline is over: %v; want it not sent", err)
	}
	canceled, cancel2 := context.WithTimeout(t.Context(), time.Minute)
	cancel2()
	if n, err := script.Run(canceled, rdb, []string{"n"}).Int(); err != nil || n != 1 {
		t.Errorf("a script whose context was cancelled: %d, %v; want it run, and for the first time", n, err)
	}
}

// If Redis hangs, a script fails when its deadline is over.
func TestCoalesceHook_RedisHangs(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	options := server.Options()
	options.ContextTimeoutEnabled = true
	rdb := redis.NewClient(options)
	t.Cleanup(func() { _ = rdb.Close() })
	rdb.AddHook(CoalesceHook(rdb))
	script := redis.NewScript(`return 1`)
	if err := script.Load(t.Context(), rdb).Err(); err != nil {
		t.Fatal(err)
	}
	server.Freeze()
	defer server.Thaw()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	start := time.Now()
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if err := script.Run(ctx, rdb, nil).Err(); err == nil {
				t.Error("a script ran; want an error")
			}
		})
	}
	wg.Wait()
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %s; want about a second", took)
	}
}
