package worker

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/internal/redistest"
)

// joinFleet starts a member that leaves with stop, or with the test.
func joinFleet(t *testing.T, server *redistest.Server) (f *fleet, stop func()) {
	t.Helper()
	f = newFleet(server.Client(), zap.NewNop())
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() { f.run(ctx); close(done) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return f, stop
}

func TestTheFleetCountsItsMembers(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	one, _ := joinFleet(t, server)
	two, stop := joinFleet(t, server)
	alive := func(n int) func() bool {
		return func() bool { live, _ := one.Snapshot(); return live == n }
	}
	redistest.Eventually(t, 10*time.Second, "two are alive", alive(2))
	if live, _ := two.Snapshot(); live != 2 {
		redistest.Eventually(t, 10*time.Second, "the other knows as well", func() bool { live, _ := two.Snapshot(); return live == 2 })
	}
	stop()
	redistest.Eventually(t, beatLife/2, "one has left, and said so", alive(1))

	// One that dies does not say so.
	if err := server.Client().ZAdd(t.Context(), fleetWorkersKey, redis.Z{Score: float64(time.Now().UnixMilli()), Member: "dead"}).Err(); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, 10*time.Second, "the dead one still counts", alive(2))
	redistest.Eventually(t, 10*time.Second, "and then no more", alive(1))
}

func TestAllWaitWhenOneIsTold(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	one, _ := joinFleet(t, server)
	two, _ := joinFleet(t, server)
	one.Pause(t.Context(), 2*time.Second)
	one.Pause(t.Context(), time.Millisecond) // shorter: changes nothing
	if _, wait := one.Snapshot(); wait < time.Second {
		t.Errorf("the one that was told waits %s", wait)
	}
	redistest.Eventually(t, 2*beatEvery, "the other waits as well", func() bool { _, wait := two.Snapshot(); return wait > 0 })
	redistest.Eventually(t, 10*time.Second, "and then no more", func() bool { _, wait := two.Snapshot(); return wait == 0 })
}

func TestTheFleetsStateOutlivesRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	one, _ := joinFleet(t, server)
	joinFleet(t, server)
	redistest.Eventually(t, 10*time.Second, "two are alive", func() bool { live, _ := one.Snapshot(); return live == 2 })
	server.Kill()
	one.beat(t.Context())
	if live, _ := one.Snapshot(); live != 2 {
		t.Errorf("without Redis %d are thought to be alive", live)
	}
	server.Restart()
	redistest.Eventually(t, 10*time.Second, "it goes on", func() bool { live, _ := one.Snapshot(); return live == 2 })
}
