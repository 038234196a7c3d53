package main

import (
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/kooworker/kooworker/internal/redistest"
)

// The short form of what `make chaos` does at length.

// A worker is killed with tasks in flight, and another one is there.
func TestTheTasksOfAKilledWorkerRunAgain(t *testing.T) {
	t.Parallel()
	aWorkerIsKilled(t, 20)
}

func aWorkerIsKilled(t *testing.T, n int) {
	t.Helper()
	server := redistest.Start(t)
	api := newLedger(t, time.Hour)
	rdb := server.Client()
	p := newProducer(t, rdb)
	victim := startWorker(t, server, api.URL, "--concurrency", strconv.Itoa(n))
	p.many(t, n)
	redistest.Eventually(t, 30*time.Second, "all are in flight", func() bool { return len(api.flying()) == n })
	startWorker(t, server, api.URL, "--concurrency", strconv.Itoa(n))

	killed := time.Now()
	victim.end(t, syscall.SIGKILL)
	api.delay.Store(0)
	redistest.Eventually(t, 35*time.Second, "all run again", func() bool { done, _ := api.executed(); return done == n })
	t.Logf("all %d ran again within %.1f s", n, time.Since(killed).Seconds())
	if c := charged(t, rdb); c != 0 {
		t.Errorf("%d attempts were charged", c)
	}
	if a := settleAccounts(t, rdb, p, api, time.Minute); a.lost != 0 || a.done != n || a.twice != 0 {
		t.Errorf("%+v", a)
	}
}

// Redis is killed under load and comes back.
func TestRedisIsKilledUnderLoad(t *testing.T) {
	t.Parallel()
	redisIsKilled(t, 2*time.Second, 20, func(*process) (stop func()) { return func() {} })
}

// redisIsKilled kills Redis for a while with so many tasks in flight; during
// the outage it lets a watch run over the worker.
func redisIsKilled(t *testing.T, outage time.Duration, inFlight int, watch func(*process) (stop func())) {
	t.Helper()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "everysec")
	api := newLedger(t, 2*time.Second)
	rdb := server.Client()
	p := newProducer(t, rdb)
	worker := startWorker(t, server, api.URL, "--concurrency", strconv.Itoa(inFlight), "--pollers", "8")
	stop := p.stream(t.Context(), 50)
	redistest.Eventually(t, 30*time.Second, "all slots are busy", func() bool { return len(api.flying()) >= inFlight*95/100 })

	flying := api.flying()
	server.Kill()
	unwatch := watch(worker)
	elapse(outage)
	unwatch()
	server.Restart()
	elapse(3 * time.Second) // of load after the outage
	stop()
	if a := settleAccounts(t, rdb, p, api, 2*time.Minute); a.lost != 0 || a.dead != 0 {
		t.Errorf("%+v", a)
	}
	_, twice := api.executed()
	for target := range twice {
		if !flying[target] {
			t.Errorf("%s was done twice and was not in flight at the kill", target)
		}
	}
}

// elapse lets time pass, where the passing of time is what is tested.
func elapse(d time.Duration) { <-time.After(d) }
