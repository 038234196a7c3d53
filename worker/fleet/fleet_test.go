package fleet

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// join runs a worker's view until stop is called, or the test ends.
func join(t *testing.T, server *redistest.Server) (f *Fleet, stop func()) {
	t.Helper()
	f = New(server.Client(), zap.NewNop())
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() { f.Run(ctx); close(done) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return f, stop
}

// knows returns a condition: f counts so many live workers.
func knows(f *Fleet, want int) func() bool {
	return func() bool { live, _ := f.Snapshot(); return live == want }
}

func TestSnapshot_CountsLiveWorkers(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	one, _ := join(t, server)
	two, stop := join(t, server)
	redistest.Eventually(t, 10*time.Second, "the first worker counts two", knows(one, 2))
	redistest.Eventually(t, 10*time.Second, "the second worker counts two", knows(two, 2))
	stop()
	redistest.Eventually(t, heartbeatTTL/2, "a worker that stopped deregisters", knows(one, 1))

	// A worker that dies does not deregister.
	if err := server.Client().ZAdd(t.Context(), workersKey, redis.Z{Score: float64(time.Now().UnixMilli()), Member: "dead"}).Err(); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, 10*time.Second, "a dead worker still counts", knows(one, 2))
	redistest.Eventually(t, 10*time.Second, "a dead worker counts no more", knows(one, 1))
}

func TestPause_EveryWorkerPauses(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	one, _ := join(t, server)
	two, _ := join(t, server)
	one.Pause(t.Context(), 2*time.Second)
	one.Pause(t.Context(), time.Millisecond) // shorter: changes nothing
	if _, pause := one.Snapshot(); pause < time.Second {
		t.Errorf("the worker that was told pauses for %s; want about 2s", pause)
	}
	redistest.Eventually(t, 2*heartbeatEvery, "the other worker pauses", func() bool { _, pause := two.Snapshot(); return pause > 0 })
	redistest.Eventually(t, 10*time.Second, "the other worker's pause ends", func() bool { _, pause := two.Snapshot(); return pause == 0 })
}

func TestSnapshot_StaysWithoutRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	one, _ := join(t, server)
	join(t, server)
	redistest.Eventually(t, 10*time.Second, "two workers are alive", knows(one, 2))
	server.Kill()
	one.heartbeat(t.Context())
	if live, _ := one.Snapshot(); live != 2 {
		t.Errorf("%d workers without Redis; want 2, the last known number", live)
	}
	server.Restart()
	redistest.Eventually(t, 10*time.Second, "two workers are alive with Redis back", knows(one, 2))
}
