//go:build chaos && linux

package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kooworker/kooworker/internal/redistest"
)

// What is here takes minutes, and the processor to itself: `make chaos`.

func TestChaosAWorkerIsKilled(t *testing.T) { aWorkerIsKilled(t, 100) }

func TestChaosRedisIsKilled(t *testing.T) {
	redisIsKilled(t, 10*time.Second, 100, func(worker *process) (stop func()) {
		pid := worker.cmd.Process.Pid
		start, before, logged := time.Now(), cpu(t, pid), strings.Count(worker.log(), "\n")
		return func() {
			share := (cpu(t, pid) - before).Seconds() / time.Since(start).Seconds()
			lines := strings.Count(worker.log(), "\n") - logged
			t.Logf("while Redis was away: %.1f %% CPU, %d log lines", share*100, lines)
			if share > 0.2 || lines > 500 {
				t.Errorf("%.0f %% CPU, %d log lines; want less than 20 %%, and 500", share*100, lines)
			}
		}
	})
}

// Redis hangs for longer than a lease.
func TestChaosRedisIsFrozen(t *testing.T) {
	server := redistest.Start(t)
	api := newLedger(t, 2*time.Second)
	rdb := server.Client()
	p := newProducer(t, rdb)
	startWorker(t, server, api.URL, "--concurrency", "50", "--pollers", "8", "--max-crashes", "1")
	p.many(t, 200)
	redistest.Eventually(t, 30*time.Second, "all slots are busy", func() bool { return len(api.flying()) >= 50 })
	server.Freeze()
	elapse(40 * time.Second)
	server.Thaw()
	redistest.Eventually(t, 90*time.Second, "it goes on", func() bool { n, _ := api.executed(); return n > 150 })
	if n := charged(t, rdb); n != 0 {
		t.Errorf("%d attempts were charged", n)
	}
	if a := settleAccounts(t, rdb, p, api, 3*time.Minute); a.lost != 0 || a.dead != 0 {
		t.Errorf("%+v", a)
	}
}

// cpu is the processor time that a process has used.
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	// After the name in parentheses, utime and stime are the 12th and 13th.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	const ticksPerSecond = 100
	ticks := 0
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond
}
