//go:build chaos && linux

package main

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kooworker/kooworker/internal/redistest"
)

// A worker is killed with 100 tasks in flight; another one is there.
func TestChaosAWorkerIsKilled(t *testing.T) {
	server := redistest.Start(t)
	api := newLedger(t, time.Hour)
	p := newProducer(t, server.Client())
	victim := startWorker(t, server, api.URL, "--concurrency", "100")
	p.many(t, 100)
	redistest.Eventually(t, 30*time.Second, "100 are in flight", func() bool { return len(api.flying()) == 100 })
	startWorker(t, server, api.URL, "--concurrency", "100")

	killed := time.Now()
	victim.end(t, syscall.SIGKILL)
	api.delay.Store(0)
	redistest.Eventually(t, 35*time.Second, "all run again", func() bool { n, _ := api.executed(); return n == 100 })
	t.Logf("all 100 ran again within %.1f s", time.Since(killed).Seconds())
	if n := charged(t, server.Client()); n != 0 {
		t.Errorf("%d attempts were charged", n)
	}
	if a := settleAccounts(t, server.Client(), p, api, time.Minute); a.lost != 0 || a.done != 100 {
		t.Errorf("%+v", a)
	}
}

// Redis is killed under load and comes back after ten seconds.
func TestChaosRedisIsKilled(t *testing.T) {
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "everysec")
	api := newLedger(t, 2*time.Second)
	rdb := server.Client()
	p := newProducer(t, rdb)
	worker := startWorker(t, server, api.URL, "--concurrency", "100", "--pollers", "8")
	stop := p.stream(t.Context(), 50)
	redistest.Eventually(t, 30*time.Second, "100 are in flight", func() bool { return len(api.flying()) >= 95 })

	inFlight := api.flying()
	server.Kill()
	before, logged := cpu(t, worker.cmd.Process.Pid), strings.Count(worker.log(), "\n")
	pause := time.NewTimer(10 * time.Second)
	<-pause.C
	share := (cpu(t, worker.cmd.Process.Pid) - before).Seconds() / 10
	lines := strings.Count(worker.log(), "\n") - logged
	t.Logf("while Redis was away: %.1f %% CPU, %d log lines", share*100, lines)
	if share > 0.2 {
		t.Errorf("the worker used %.0f %% CPU", share*100)
	}
	if lines > 500 {
		t.Errorf("%d log lines in 10 s", lines)
	}
	server.Restart()
	stop()
	a := settleAccounts(t, rdb, p, api, 3*time.Minute)
	if a.lost != 0 {
		t.Errorf("%+v", a)
	}
	_, twice := api.executed()
	for target := range twice {
		if !inFlight[target] {
			t.Errorf("%s was done twice and was not in flight at the kill", target)
		}
	}
}

// Redis hangs for longer than a lease.
func TestChaosRedisIsFrozen(t *testing.T) {
	server := redistest.Start(t)
	api := newLedger(t, 2*time.Second)
	rdb := server.Client()
	p := newProducer(t, rdb)
	startWorker(t, server, api.URL, "--concurrency", "50", "--pollers", "8")
	p.many(t, 200)
	redistest.Eventually(t, 30*time.Second, "50 are in flight", func() bool { return len(api.flying()) >= 50 })
	server.Freeze()
	pause := time.NewTimer(40 * time.Second)
	<-pause.C
	server.Thaw()
	redistest.Eventually(t, time.Minute, "it goes on", func() bool { n, _ := api.executed(); return n > 150 })
	if n := charged(t, rdb); n != 0 {
		t.Errorf("%d attempts were charged", n)
	}
	if a := settleAccounts(t, rdb, p, api, 3*time.Minute); a.lost != 0 || a.dead != 0 {
		t.Errorf("%+v", a)
	}
}
