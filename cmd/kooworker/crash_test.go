package main

import (
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/kooworker/kooworker/internal/redistest"
)

// These are short forms of the tests of `make chaos`.

// A worker is killed with tasks in flight, and another worker runs.
func TestWorker_TasksOfAKilledWorkerRunAgain(t *testing.T) {
	t.Parallel()
	testKilledWorker(t, 20)
}

// testKilledWorker kills a worker that has n tasks in flight.
func testKilledWorker(t *testing.T, n int) {
	t.Helper()
	server := redistest.Start(t)
	api := newFakeAPI(t, time.Hour)
	rdb := server.Client()
	p := newProducer(t, rdb)
	victim := startWorker(t, server, api.URL, "--concurrency", strconv.Itoa(n))
	p.enqueueMany(t, n)
	redistest.Eventually(t, 30*time.Second, "all are in flight", func() bool { return len(api.targetsInFlight()) == n })
	startWorker(t, server, api.URL, "--concurrency", strconv.Itoa(n))

	killed := time.Now()
	victim.end(t, syscall.SIGKILL)
	api.delay.Store(0)
	redistest.Eventually(t, 60*time.Second, "all run again, one at a time", func() bool { done, _ := api.executed(); return done == n })
	t.Logf("all %d ran again within %.1f s", n, time.Since(killed).Seconds())
	if c := chargedAttempts(t, rdb); c != 0 {
		t.Errorf("%d attempts were charged; want 0", c)
	}
	if a := awaitOutcomes(t, rdb, p, api, time.Minute); a.lost != 0 || a.done != n || a.twice != 0 {
		t.Errorf("%+v; want %d done, none lost and none twice", a, n)
	}
}

// Redis is killed under load, and comes back.
func TestWorker_RedisKilledUnderLoad(t *testing.T) {
	t.Parallel()
	testKilledRedis(t, 2*time.Second, 20, func(*process) (stop func()) { return func() {} })
}

// testKilledRedis kills Redis for a while with so many tasks in flight. During the
// outage, watch observes the worker.
func testKilledRedis(t *testing.T, outage time.Duration, inFlight int, watch func(*process) (stop func())) {
	t.Helper()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "everysec")
	api := newFakeAPI(t, 2*time.Second)
	rdb := server.Client()
	p := newProducer(t, rdb)
	worker := startWorker(t, server, api.URL, "--concurrency", strconv.Itoa(inFlight))
	stop := p.stream(t.Context(), 50)
	redistest.Eventually(t, 30*time.Second, "all slots are busy", func() bool { return len(api.targetsInFlight()) >= inFlight*95/100 })

	inFlightAtKill := api.targetsInFlight()
	server.Kill()
	unwatch := watch(worker)
	letTimePass(outage)
	unwatch()
	server.Restart()
	letTimePass(3 * time.Second) // load after the outage
	stop()
	if a := awaitOutcomes(t, rdb, p, api, 2*time.Minute); a.lost != 0 || a.dead != 0 {
		t.Errorf("%+v; want none lost and none dead", a)
	}
	_, twice := api.executed()
	for target := range twice {
		if !inFlightAtKill[target] {
			t.Errorf("%s was done twice; want this only of targets in flight at the kill", target)
		}
	}
}

// letTimePass waits where the passing of time itself is tested.
func letTimePass(d time.Duration) { <-time.After(d) }
