//go:build chaos && linux

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/cmd/kooworker/internal/redisurl"
	"github.com/kooworker/kooworker/internal/redistest"
)

// These tests take minutes and need the processor for themselves: `make chaos`.

func TestChaos_WorkerKilled(t *testing.T) { testKilledWorker(t, 100) }

func TestChaos_ProducerKilled(t *testing.T) { testKilledProducer(t, 200_000, 10) }

func TestChaos_WorkerKilledDuringBatch(t *testing.T) { testBatchWithKilledWorkers(t, 50_000, 5) }

func TestChaos_ManyUsersOffboarded(t *testing.T) { testOffboarding(t, 1000) }

func TestChaos_SchedulersKilled(t *testing.T) { testKilledSchedulers(t, time.Minute, 20*time.Second) }

func TestChaos_ManyLocksSwept(t *testing.T) { testExactSweep(t, 100_000) }

func TestChaos_Sources(t *testing.T) { testSourcesAtLength(t, 50_000) }

func TestChaos_KeysLeft(t *testing.T) { testKeysLeft(t, 100_000, 1000, 1000, true) }

// Each of the masters hangs for longer than a lease.
func TestChaos_ClusterMasterHangs(t *testing.T) {
	for which := range 3 {
		t.Run(fmt.Sprint("master ", which), func(t *testing.T) { testHungMaster(t, which, 40*time.Second) })
	}
}

func TestChaos_RedisKilled(t *testing.T) {
	testKilledRedis(t, 10*time.Second, 100, func(worker *process) (stop func()) {
		pid := worker.cmd.Process.Pid
		start, before, logged := time.Now(), cpu(t, pid), strings.Count(worker.log(), "\n")
		return func() {
			share := (cpu(t, pid) - before).Seconds() / time.Since(start).Seconds()
			lines := strings.Count(worker.log(), "\n") - logged
			t.Logf("while Redis was away: %.1f %% CPU, %d log lines", share*100, lines)
			if share > 0.2 || lines > 500 {
				t.Errorf("%.0f %% CPU, %d log lines; want less than 20 %%, and at most 500", share*100, lines)
			}
		}
	})
}

// Redis hangs for longer than a lease.
func TestChaos_RedisFrozen(t *testing.T) {
	server := redistest.Start(t)
	api := newFakeAPI(t, 2*time.Second)
	rdb := server.Client()
	p := newProducer(t, rdb)
	startWorker(t, server, api.URL, "--concurrency", "50", "--max-crashes", "1")
	p.enqueueMany(t, 200)
	redistest.Eventually(t, 30*time.Second, "all slots are busy", func() bool { return len(api.targetsInFlight()) >= 50 })
	server.Freeze()
	letTimePass(40 * time.Second)
	server.Thaw()
	redistest.Eventually(t, 90*time.Second, "the worker continues", func() bool { n, _ := api.executed(); return n > 150 })
	if n := chargedAttempts(t, rdb); n != 0 {
		t.Errorf("%d attempts were charged; want 0", n)
	}
	if a := awaitOutcomes(t, rdb, p, api, 3*time.Minute); a.lost != 0 || a.dead != 0 {
		t.Errorf("%+v; want none lost and none dead", a)
	}
}

// A primary with a replica is killed under load, and Sentinel fails over.
func TestChaos_Failover(t *testing.T) {
	primary := redistest.Start(t, "--repl-diskless-sync-delay", "0")
	host, port, err := net.SplitHostPort(primary.Addr())
	if err != nil {
		t.Fatal(err)
	}
	replica := redistest.Start(t, "--replicaof", host+" "+port)
	redistest.Eventually(t, 30*time.Second, "the replica is in step", func() bool {
		return strings.Contains(replica.Client().Info(t.Context(), "replication").Val(), "master_link_status:up")
	})
	url := "redis-sentinel://" + startSentinel(t, host, port) + "?master=main"
	rdb, err := redisurl.Address{URL: url}.Client(32)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rdb.Close() }()
	api := newFakeAPI(t, 50*time.Millisecond)
	careful, plain := newReplicatedProducer(t, rdb, 1), newProducer(t, rdb)
	plain.prefix = "plain-"
	p := startProcess(t, []string{"KOODRIVE_TOKEN=t0ken"}, "worker", "--redis-url", url, "--koodrive-url", api.URL)
	redistest.Eventually(t, 20*time.Second, "the worker runs", func() bool { return strings.Contains(p.log(), "worker is running") })

	stop := careful.stream(t.Context(), 50)
	letTimePass(5 * time.Second)
	killed := time.Now()
	primary.Kill()
	redistest.Eventually(t, time.Minute, "the producer continues", func() bool { return plain.enqueue(t.Context()) == nil })
	t.Logf("the producer went on %.1f s after the kill", time.Since(killed).Seconds())
	stop()
	plain.enqueueMany(t, 200)
	redistest.Eventually(t, time.Minute, "the worker continues", func() bool { return len(plain.missing(api)) == 0 })
	t.Logf("the worker had caught up %.1f s after the kill", time.Since(killed).Seconds())
	if a := awaitOutcomes(t, rdb, careful, api, 2*time.Minute); a.lost != 0 || a.acknowledged < 100 {
		t.Errorf("%+v; want none lost of at least 100", a)
	}
}

// startSentinel starts a sentinel that watches a primary under the name main.
func startSentinel(t *testing.T, host, port string) (addr string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = listener.Addr().String()
	_ = listener.Close() // leaves a free port to the sentinel
	conf := filepath.Join(t.TempDir(), "sentinel.conf")
	text := fmt.Sprintf("port %s\nbind 127.0.0.1\nsentinel monitor main %s %s 1\nsentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n", addr[strings.LastIndexByte(addr, ':')+1:], host, port)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("redis-server", conf, "--sentinel")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	sentinel := redis.NewSentinelClient(&redis.Options{Addr: addr, DialerRetries: 1})
	defer func() { _ = sentinel.Close() }()
	redistest.Eventually(t, 30*time.Second, "the sentinel knows the replica", func() bool {
		replicas, err := sentinel.Replicas(t.Context(), "main").Result()
		return err == nil && len(replicas) == 1
	})
	return addr
}

// cpu returns the processor time that a process has used.
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	// utime and stime are the 12th and 13th field after the name in parentheses.
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

// KooDrive goes down in the middle of a fast drain.
func TestChaos_OutageInFastDrain(t *testing.T) {
	const n, outage, maxCalls = 20_000, time.Minute, 100
	server := redistest.Start(t)
	rdb := server.Client()
	api := newFakeAPI(t, 5*time.Millisecond)
	p := newProducer(t, rdb)
	p.enqueueMany(t, n)
	startWorker(t, server, api.URL)
	redistest.Eventually(t, time.Minute, "the drain is under way", func() bool { return api.requests() >= n/4 })
	api.down.Store(true)
	before := api.requests()
	letTimePass(outage)
	calls, charged := api.requests()-before, chargedAttempts(t, rdb)
	t.Logf("%d calls in an outage of %s after %d calls; %d attempts charged", calls, outage, before, charged)
	if calls > maxCalls || charged != 0 {
		t.Errorf("%d calls in the outage, %d attempts charged; want at most %d, and none", calls, charged, maxCalls)
	}
	api.down.Store(false)
	if a := awaitOutcomes(t, rdb, p, api, 5*time.Minute); a.lost != 0 || a.dead != 0 || a.done != n {
		t.Errorf("%+v; want %d done", a, n)
	}
}

// KooDrive is down while ten thousand tasks wait. Package gate has the same test with
// an outage of 30 minutes on a scaled clock.
func TestChaos_KooDriveDown(t *testing.T) {
	const n, outage = 10_000, 90 * time.Second
	server := redistest.Start(t)
	rdb := server.Client()
	api := newFakeAPI(t, 5*time.Millisecond)
	api.down.Store(true)
	p := newProducer(t, rdb)
	p.enqueueMany(t, n)
	startWorker(t, server, api.URL)
	redistest.Eventually(t, 20*time.Second, "calls are made", func() bool { return api.requests() >= 8 })
	letTimePass(3 * time.Second) // until the breaker has opened
	before, chargedBefore := api.requests(), chargedAttempts(t, rdb)
	letTimePass(outage)
	perSecond := float64(api.requests()-before) / outage.Seconds()
	t.Logf("%d requests and %d attempts before the breaker opened; then %.2f requests a second", before, chargedBefore, perSecond)
	if after := chargedAttempts(t, rdb); perSecond >= 1 || after != 0 {
		t.Errorf("%.2f requests a second while the breaker is open, and %d attempts charged; want less than 1, and none", perSecond, after)
	}
	api.down.Store(false)
	redistest.Eventually(t, 2*time.Minute, "calls continue", func() bool { done, _ := api.executed(); return done > 3 })
	done, _ := api.executed()
	start := time.Now()
	letTimePass(time.Second)
	if now, _ := api.executed(); now-done > 100 {
		t.Errorf("%d calls in the first second; want at most 100", now-done)
	}
	a := awaitOutcomes(t, rdb, p, api, 3*time.Minute)
	t.Logf("all done %.0f s after calls went on", time.Since(start).Seconds())
	if a.lost != 0 || a.dead != 0 || a.done != n {
		t.Errorf("%+v; want %d done", a, n)
	}
}

// Three workers share a rate; one of them is killed.
func TestChaos_SharedRate(t *testing.T) {
	const rate = 60
	server := redistest.Start(t)
	api := newFakeAPI(t, 0)
	p := newProducer(t, server.Client())
	var workers []*process
	for range 3 {
		workers = append(workers, startWorker(t, server, api.URL, "--rate", strconv.Itoa(rate)))
	}
	p.enqueueMany(t, 3*60*rate)
	letTimePass(10 * time.Second)
	measure := func(what string) {
		before := api.requests()
		letTimePass(time.Minute)
		perSecond := float64(api.requests()-before) / 60
		t.Logf("%s: %.1f requests a second", what, perSecond)
		if perSecond < 54 || perSecond > 66 {
			t.Errorf("%s: %.1f requests a second; want 54 to 66", what, perSecond)
		}
	}
	measure("three workers")
	workers[0].end(t, syscall.SIGKILL)
	letTimePass(10 * time.Second) // until the others notice
	measure("after one was killed")
}

// Many tasks are dead.
func TestChaos_ThirtyThousandDeadLetters(t *testing.T) {
	const n = 30_000
	server := redistest.Start(t)
	rdb := server.Client()
	_, url := startSimulator(t, "forbidden")
	p := newProducer(t, rdb)
	startWorker(t, server, url, "--concurrency", "64")
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() { p.enqueueMany(t, n/16) })
	}
	wg.Wait()
	stats := func(args ...string) map[string]any {
		return kooworker(t, "", append([]string{"dead", "stats", "--json", "--redis-url", server.URL()}, args...)...).object(t)
	}
	redistest.Eventually(t, 3*time.Minute, "all are dead", func() bool { return stats()["total"] == float64(n) })
	redistest.Eventually(t, 3*time.Minute, "all are parked", func() bool {
		r := kooworker(t, "", "dead", "replay", "--all", "--dry-run", "--json", "--redis-url", server.URL())
		return r.object(t)["skipped"] == 0.0
	})
	for _, filter := range [][]string{nil, {"--reason", "forbidden"}, {"--reason", "invalid"}, {"--user-id", "u"}, {"--kind", "lock:release"}, {"--newer-than", "1h"}} {
		start := time.Now()
		got := stats(filter...)
		took := time.Since(start)
		t.Logf("stats %v: %v in %.2f s", filter, got["total"], took.Seconds())
		if took > time.Second {
			t.Errorf("%v took %s; want at most 1s", filter, took)
		}
	}

	// A probe that asks all the time measures for how long Redis answers nobody.
	probe := server.Client()
	stop, longest := make(chan struct{}), make(chan time.Duration)
	go func() {
		var most time.Duration
		for {
			select {
			case <-stop:
				longest <- most
				return
			default:
			}
			start := time.Now()
			probe.Ping(t.Context())
			most = max(most, time.Since(start))
		}
	}()
	const rate, limit = 500, 5000
	start := time.Now()
	r := kooworker(t, "", "dead", "replay", "--reason", "forbidden", "--rate", strconv.Itoa(rate), "--limit", strconv.Itoa(limit), "--json", "--redis-url", server.URL())
	took := time.Since(start)
	close(stop)
	t.Logf("replayed %v of %d in %.1f s; Redis was silent for at most %s", r.object(t)["done"], n, took.Seconds(), <-longest)
	if perSecond := limit / took.Seconds(); perSecond > rate*1.05 || perSecond < rate*0.9 {
		t.Errorf("%.0f a second; want %d", perSecond, rate)
	}
	redistest.Eventually(t, time.Minute, "they are dead again", func() bool { return stats()["total"] == float64(n) })
}

// requests returns how many requests there were.
func (l *fakeAPI) requests() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}
