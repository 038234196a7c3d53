package main

import (
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/locks/source/sourcetest"
)

// proxy forwards connections to a server, and can break them.
type proxy struct {
	net.Listener

	left   atomic.Int64 // how many more bytes of the server pass
	broken func()       // is called after them; then the connections are cut

	frozen sync.RWMutex // while it is locked, nothing of the server passes

	mu    sync.Mutex
	down  bool
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

const unlimited = 1 << 60

func startProxy(t *testing.T, to string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: listener, conns: map[net.Conn]bool{}, broken: func() {}}
	p.left.Store(unlimited)
	p.wg.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil || !p.add(near, far) {
				_ = near.Close()
				continue
			}
			p.wg.Go(func() { _, _ = io.Copy(far, near); p.cut(near, far) })
			p.wg.Go(func() { p.pass(near, far); p.cut(near, far) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		p.shut()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) add(near, far net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		_ = far.Close()
		return false
	}
	p.conns[near], p.conns[far] = true, true
	return true
}

func (p *proxy) cut(near, far net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = near.Close(), far.Close()
	delete(p.conns, near)
	delete(p.conns, far)
}

func (p *proxy) pass(near, far net.Conn) {
	piece := make([]byte, 512)
	for {
		n, err := far.Read(piece)
		if err != nil {
			return
		}
		if p.left.Add(int64(-n)) < 0 {
			p.broken()
			return
		}
		p.frozen.RLock()
		_, err = near.Write(piece[:n])
		p.frozen.RUnlock()
		if err != nil {
			return
		}
	}
}

// shut cuts all connections, and refuses new ones until open is called.
func (p *proxy) shut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = true
	for conn := range p.conns {
		_ = conn.Close()
	}
}

func (p *proxy) open() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = false
}

func (p *proxy) addr() string { return p.Addr().String() }

// testBreakDuringSweep breaks something in the middle of a sweep's query, and then
// sweeps again.
func testBreakDuringSweep(t *testing.T, d *sourcetest.Server, n int, breaks func(), mend func()) {
	t.Helper()
	l := newLockTable(t, d, n, n)
	p := startProxy(t, d.Addr())
	p.broken = sync.OnceFunc(breaks)
	source := flagsOf(d.DSNAt(p.addr()), l.query())
	p.left.Store(int64(n) * 20) // less than n rows
	r := l.sweepOf(t, source)
	if r.code != exitFailed || r.stdout != "" || !strings.Contains(r.stderr, "nothing was enqueued: ") || !strings.Contains(r.stderr, "the next try reads it from the start") {
		t.Errorf("%+v; want exit 1, nothing on stdout, 'nothing was enqueued:' and 'the next try reads it from the start'", r)
	}
	t.Log(r.stderr)
	if enqueued := l.enqueued(t); enqueued > 0 || p.left.Load() > 0 {
		t.Errorf("%d releases are enqueued, and %d bytes may still pass; want 0 and 0", enqueued, p.left.Load())
	}
	mend()
	p.left.Store(unlimited)
	if r := l.sweepOf(t, source); r.code != exitDone || r.object(t)["enqueued"] != float64(n) || l.enqueued(t) != n {
		t.Errorf("%+v; want exit 0, and %d releases", r, n)
	}
}

func TestSource_ConnectionBreaksDuringSweep(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, d *sourcetest.Server) {
		t.Helper()
		testBreakDuringSweep(t, d, 1000, func() {}, func() {})
	})
}

// Not parallel: other tests use the server.
func TestSource_DatabaseKilledDuringSweep(t *testing.T) {
	for _, d := range sourcetest.Both(t) {
		t.Run(d.Name, func(t *testing.T) { testBreakDuringSweep(t, d, 1000, d.Kill, func() { d.Restart(t) }) })
	}
}

func TestSource_DatabaseDownDuringReleases(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, d *sourcetest.Server) {
		t.Helper()
		p := startProxy(t, d.Addr())
		testOutageDuringReleases(t, d, p.addr(), 200, time.Second, p.shut, func(l *lockTable) {
			p.open()
			letTimePass(5 * time.Second) // the worker asks a failed source again only after this time
			l.runRetriesNow(t)
		})
	})
}

// testOutageDuringReleases makes the database unreachable for a while, when a part of
// the releases is done.
func testOutageDuringReleases(t *testing.T, d *sourcetest.Server, addr string, n int, outage time.Duration, stop func(), start func(*lockTable)) {
	t.Helper()
	l := newLockTable(t, d, n, n)
	source := flagsOf(d.DSNAt(addr), l.query())
	worker := startWorker(t, l.redis, l.url, append(source, "--rate", strconv.Itoa(n/2))...)
	sweep := l.sweepOf(t, source)
	if sweep.code != exitDone || strings.Contains(sweep.stderr, "kooworker: ") {
		t.Fatalf("%+v; want exit 0 and no 'kooworker: '", sweep)
	}
	released := func() int { return l.sim.Stats().Released }
	redistest.Eventually(t, 30*time.Second, "releases are under way", func() bool { return released() > n/5 })
	stop()
	letTimePass(1500 * time.Millisecond) // the result of a lookup is valid for a second
	before, lines := released(), strings.Count(worker.log(), "\n")
	letTimePass(outage)
	if more := released() - before; more > 0 || before == n {
		t.Errorf("%d more were released during the outage, after %d of %d; want 0", more, before, n)
	}
	if !strings.Contains(worker.log(), "their releases wait") || strings.Count(worker.log(), "their releases wait") > 1+int(outage/time.Minute) || strings.Count(worker.log(), "\n")-lines > 20 {
		t.Errorf("the log of the outage has too many lines, or no 'their releases wait': %s; want it once a minute", worker.log())
	}
	var latest time.Duration
	for _, task := range l.tasks(t, tasks.QueueRelease) {
		if task.Retried > 0 {
			t.Errorf("%s is charged an attempt; want none: %s", task.ID, task.LastErr)
		}
		latest = max(latest, time.Until(task.NextProcessAt))
	}
	if latest < outage {
		t.Errorf("after an outage of %s the releases are retried within %s; want them to wait as long as the outage", outage, latest)
	}
	begin := time.Now()
	start(l)
	if diff := cmp.Diff(map[string]float64{"total": float64(n), "succeeded": float64(n)}, l.wait(t, sweep)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	t.Logf("%s was down after %d of %d releases; the others were done %.1f s after it was up again", d.Name, before, n, time.Since(begin).Seconds())
	l.checkReleased(t, n, n)
	checkNoPassword(t, worker.log())
}

func TestLocksSweep_KilledSweepIsCompleted(t *testing.T) {
	t.Parallel()
	d := sourcetest.Both(t)[0] // PostgreSQL answers before anything is enqueued
	testKilledSweep(t, d, 3000, func(l *lockTable) { l.redis.Client().Del(t.Context(), "{kooworker:locks}:sweeping") })
}

// testKilledSweep kills a sweep while it enqueues, and sweeps again. Half of the locks
// are stale. endLease may end the lease of the killed sweep before its time.
func testKilledSweep(t *testing.T, d *sourcetest.Server, n int, endLease func(*lockTable)) {
	t.Helper()
	stale := n / 2
	l := newLockTable(t, d, n, stale)
	rdb := l.redis.Client()
	inspector := asynq.NewInspectorFromRedisClient(rdb)
	pending := func() int { return infoOf(t, inspector, tasks.QueueRelease).Pending }
	victim := startProcess(t, nil, append([]string{"locks", "sweep", "--max-share", "1", "--redis-url", l.redis.URL()}, l.flags()...)...)
	redistest.Eventually(t, time.Minute, "the sweep enqueues", func() bool { return pending() > 0 })
	victim.end(t, syscall.SIGKILL)
	enqueued := pending()
	t.Logf("%s: killed when %d of %d were enqueued", d.Name, enqueued, stale)
	if enqueued >= stale {
		t.Errorf("the sweep had finished before the kill; want it to be in progress")
	}
	recorded := int(rdb.ZCard(t.Context(), "{kooworker:locks}:listed:sql").Val())
	var r result
	endLease(l)
	redistest.Eventually(t, 30*time.Second, "the lease of the killed sweep has ended", func() bool {
		r = l.sweep(t)
		return !strings.Contains(r.stderr, "another sweep is running")
	})
	if o := r.object(t); r.code != exitDone || o["enqueued"].(float64) != float64(stale-recorded) {
		t.Errorf("%+v; want exit 0, and the %d releases that are not recorded", r, stale-recorded)
	}
	l.worker(t, "--concurrency", "64")
	l.wait(t, r)
	redistest.Eventually(t, time.Minute, "the releases of the killed sweep are done as well", func() bool { return l.enqueued(t) == 0 })
	l.checkReleased(t, n, stale)
	if r := l.sweep(t); r.code != exitDone || r.object(t)["enqueued"] != 0.0 {
		t.Errorf("again: %+v; want exit 0 and enqueued 0", r)
	}
}

// testHangDuringReleases makes the database hang when a part of the releases is done.
// Tasks that do not need the database go on.
func testHangDuringReleases(t *testing.T, d *sourcetest.Server) {
	t.Helper()
	const n, slots = 200, 8
	l := newLockTable(t, d, n, n)
	p := startProxy(t, d.Addr())
	source := flagsOf(d.DSNAt(p.addr()), l.query())
	worker := startWorker(t, l.redis, l.url, append(source, "--rate", strconv.Itoa(n/4), "--concurrency", strconv.Itoa(slots))...)
	sweep := l.sweepOf(t, source)
	redistest.Eventually(t, 30*time.Second, "releases are under way", func() bool { return l.sim.Stats().Released > n/5 })
	p.frozen.Lock()
	redistest.Eventually(t, time.Minute, "a lookup has failed", func() bool { return strings.Contains(worker.log(), "their releases wait") })
	unbinds := newProducer(t, l.redis.Client())
	begin := time.Now()
	var longest time.Duration
	for time.Since(begin) < 20*time.Second {
		asked := time.Now()
		unbinds.enqueueMany(t, 1)
		redistest.Eventually(t, time.Minute, "an unbind is done", func() bool { return len(l.tasks(t, tasks.QueueUnbind)) == 0 })
		longest = max(longest, time.Since(asked))
		letTimePass(200 * time.Millisecond)
	}
	t.Logf("%s hung: an unbind took %.1f s at most", d.Name, longest.Seconds())
	if longest > 5*time.Second {
		t.Errorf("an unbind took %s; want less than 5s, since it does not need the database", longest)
	}
	p.frozen.Unlock()
	begin = time.Now()
	if diff := cmp.Diff(map[string]float64{"total": n, "succeeded": n}, l.wait(t, sweep)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	t.Logf("the releases were done %.1f s after that", time.Since(begin).Seconds())
}
