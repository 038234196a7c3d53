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

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/locks/source/sourcetest"
)

// proxy stands between us and a server, and breaks.
type proxy struct {
	net.Listener

	left   atomic.Int64 // bytes of the server's that still pass
	broken func()       // called when they are over; the connections are cut

	frozen sync.RWMutex // locked: what the server says does not arrive

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

// shut cuts all connections, and lets nobody in until it is opened.
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

// breaksDuringASweep sweeps while something breaks in the middle of the list,
// and once more.
func breaksDuringASweep(t *testing.T, d *sourcetest.Server, n int, breaks func(), mend func()) {
	t.Helper()
	l := list(t, d, n, n)
	p := startProxy(t, d.Addr())
	p.broken = sync.OnceFunc(breaks)
	source := flagsOf(d.DSNAt(p.addr()), l.query())
	p.left.Store(int64(n) * 20) // a row is longer
	r := l.sweepOf(t, source)
	if r.code != exitFailed || r.stdout != "" || !strings.Contains(r.stderr, "nothing was enqueued: ") || !strings.Contains(r.stderr, "the next try reads it from the start") {
		t.Errorf("%+v", r)
	}
	t.Log(r.stderr)
	if enqueued := l.enqueued(t); enqueued > 0 || p.left.Load() > 0 {
		t.Errorf("%d releases are enqueued; the server may go on for %d bytes", enqueued, p.left.Load())
	}
	mend()
	p.left.Store(unlimited)
	if r := l.sweepOf(t, source); r.code != exitDone || r.object(t)["enqueued"] != float64(n) || l.enqueued(t) != n {
		t.Errorf("%+v", r)
	}
}

func TestAConnectionBreaksDuringASweep(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, d *sourcetest.Server) {
		t.Helper()
		breaksDuringASweep(t, d, 1000, func() {}, func() {})
	})
}

// Not parallel: others use the server.
func TestADatabaseIsKilledDuringASweep(t *testing.T) {
	for _, d := range sourcetest.Both(t) {
		t.Run(d.Name, func(t *testing.T) { breaksDuringASweep(t, d, 1000, d.Kill, func() { d.Restart(t) }) })
	}
}

func TestADatabaseIsAwayDuringReleases(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, d *sourcetest.Server) {
		t.Helper()
		p := startProxy(t, d.Addr())
		isAwayDuringReleases(t, d, p.addr(), 200, time.Second, p.shut, func(l *listing) {
			p.open()
			elapse(5 * time.Second) // for so long the worker leaves alone what has failed
			l.hurry(t)
		})
	})
}

// isAwayDuringReleases takes the database away for a while when a part of the
// releases is done.
func isAwayDuringReleases(t *testing.T, d *sourcetest.Server, addr string, n int, outage time.Duration, away func(), back func(*listing)) {
	t.Helper()
	l := list(t, d, n, n)
	source := flagsOf(d.DSNAt(addr), l.query())
	worker := startWorker(t, l.redis, l.url, append(source, "--rate", strconv.Itoa(n/2))...)
	sweep := l.sweepOf(t, source)
	if sweep.code != exitDone || strings.Contains(sweep.stderr, "kooworker: ") {
		t.Fatalf("%+v", sweep)
	}
	released := func() int { return l.sim.Stats().Released }
	redistest.Eventually(t, 30*time.Second, "releases are under way", func() bool { return released() > n/5 })
	away()
	elapse(1500 * time.Millisecond) // a look is good for a second
	before, lines := released(), strings.Count(worker.log(), "\n")
	elapse(outage)
	if more := released() - before; more > 0 || before == n {
		t.Errorf("%d were released that nobody looked at, after %d of %d", more, before, n)
	}
	if !strings.Contains(worker.log(), "their releases wait") || strings.Count(worker.log(), "their releases wait") > 1+int(outage/time.Minute) || strings.Count(worker.log(), "\n")-lines > 20 {
		t.Errorf("the log of the outage: %s", worker.log())
	}
	var latest time.Duration
	for _, task := range l.tasks(t, tasks.QueueRelease) {
		if task.Retried > 0 {
			t.Errorf("%s is charged: %s", task.ID, task.LastErr)
		}
		latest = max(latest, time.Until(task.NextProcessAt))
	}
	if latest < outage {
		t.Errorf("after %s the releases are tried again within %s; want them to wait as long again", outage, latest)
	}
	begin := time.Now()
	back(l)
	if diff := cmp.Diff(map[string]float64{"total": float64(n), "succeeded": float64(n)}, l.wait(t, sweep)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	t.Logf("%s was away when %d of %d were released; the others were %.1f s after it was back", d.Name, before, n, time.Since(begin).Seconds())
	l.held(t, n, n)
	noPassword(t, worker.log())
}

func TestASweepIsKilledAndAnotherCompletesIt(t *testing.T) {
	t.Parallel()
	d := sourcetest.Both(t)[0] // which has answered before anything is enqueued
	aSweepIsKilled(t, d, 3000, func(l *listing) { l.redis.Client().Del(t.Context(), "{kooworker:locks}:sweeping") })
}

// aSweepIsKilled kills a sweep while it enqueues; half of the locks are stale. The
// dead one's lease is over by itself, or sooner.
func aSweepIsKilled(t *testing.T, d *sourcetest.Server, n int, endLease func(*listing)) {
	t.Helper()
	stale := n / 2
	l := list(t, d, n, stale)
	rdb := l.redis.Client()
	pending := func() int { return int(rdb.LLen(t.Context(), "asynq:{"+tasks.QueueRelease+"}:pending").Val()) }
	victim := startProcess(t, nil, append([]string{"locks", "sweep", "--max-share", "1", "--redis-url", l.redis.URL()}, l.flags()...)...)
	redistest.Eventually(t, time.Minute, "it enqueues", func() bool { return pending() > 0 })
	victim.end(t, syscall.SIGKILL)
	enqueued := pending()
	t.Logf("%s: killed when %d of %d were enqueued", d.Name, enqueued, stale)
	if enqueued >= stale {
		t.Errorf("it was done before it was killed")
	}
	noted := int(rdb.ZCard(t.Context(), "{kooworker:locks}:listed:sql").Val())
	var r result
	endLease(l)
	redistest.Eventually(t, 30*time.Second, "the lease of the dead sweep is over", func() bool {
		r = l.sweep(t)
		return !strings.Contains(r.stderr, "another sweep is running")
	})
	if o := r.object(t); r.code != exitDone || o["enqueued"].(float64) != float64(stale-noted) {
		t.Errorf("%d were noted: %+v", noted, r)
	}
	l.worker(t, "--concurrency", "64", "--pollers", "8")
	l.wait(t, r)
	redistest.Eventually(t, time.Minute, "the dead sweep's are done as well", func() bool { return l.enqueued(t) == 0 })
	l.held(t, n, stale)
	if r := l.sweep(t); r.code != exitDone || r.object(t)["enqueued"] != 0.0 {
		t.Errorf("again: %+v", r)
	}
}

// hangsDuringReleases lets the database hang while a part of the releases is done.
// Tasks that do not need it go on.
func hangsDuringReleases(t *testing.T, d *sourcetest.Server) {
	t.Helper()
	const n, slots = 200, 8
	l := list(t, d, n, n)
	p := startProxy(t, d.Addr())
	source := flagsOf(d.DSNAt(p.addr()), l.query())
	worker := startWorker(t, l.redis, l.url, append(source, "--rate", strconv.Itoa(n/4), "--concurrency", strconv.Itoa(slots))...)
	sweep := l.sweepOf(t, source)
	redistest.Eventually(t, 30*time.Second, "releases are under way", func() bool { return l.sim.Stats().Released > n/5 })
	p.frozen.Lock()
	redistest.Eventually(t, time.Minute, "a look has failed", func() bool { return strings.Contains(worker.log(), "their releases wait") })
	unbinds := newProducer(t, l.redis.Client())
	begin := time.Now()
	var longest time.Duration
	for time.Since(begin) < 20*time.Second {
		asked := time.Now()
		unbinds.many(t, 1)
		redistest.Eventually(t, time.Minute, "an unbind is done", func() bool { return len(l.tasks(t, tasks.QueueUnbind)) == 0 })
		longest = max(longest, time.Since(asked))
		elapse(200 * time.Millisecond)
	}
	t.Logf("%s hung: an unbind took %.1f s at most", d.Name, longest.Seconds())
	if longest > 5*time.Second {
		t.Errorf("unbinds had to wait for the database")
	}
	p.frozen.Unlock()
	begin = time.Now()
	if diff := cmp.Diff(map[string]float64{"total": n, "succeeded": n}, l.wait(t, sweep)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	t.Logf("the releases were done %.1f s after that", time.Since(begin).Seconds())
}
