package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

// The short form of what `make chaos` does at length.
func TestSchedulersAreKilled(t *testing.T) {
	t.Parallel()
	schedulersAreKilled(t, 5*time.Second, 5*time.Second)
}

// sweepEvery is what the schedulers are told here.
const sweepEvery = 2 * time.Second

// schedulersAreKilled kills and restarts five schedulers at random for a while,
// then lets none run during a pause, and starts them all again. Two workers carry
// the sweeps out, not before half of the while is over: several wait then, some of
// them nobody's tick, and run at the same time if they can.
func schedulersAreKilled(t *testing.T, kills, pause time.Duration) {
	t.Helper()
	server := redistest.Start(t)
	sim, url := startSimulator(t)
	const stale = 3000 // a hundred of them in a sweep, so that it takes its time
	trackLocks(t, server, sim, stale, stale)
	inspector := asynq.NewInspectorFromRedisClient(server.Client())
	if err := inspector.PauseQueue(tasks.QueueSweep); err != nil {
		t.Fatal(err)
	}
	byHand := enqueueSweeps(t, server, 2)
	tr := traceRedis(t, server)
	workers := []*process{startWorker(t, server, url, "--log-format", "json"), startWorker(t, server, url, "--log-format", "json")}
	f := &fleet{running: make([]*life, 5)}
	everyone := []int{0, 1, 2, 3, 4}

	begin := time.Now()
	f.start(t, server, everyone)
	f.killAndRestart(t, server, begin.Add(kills/2))
	if err := inspector.UnpauseQueue(tasks.QueueSweep); err != nil {
		t.Fatal(err)
	}
	f.killAndRestart(t, server, begin.Add(kills))
	f.kill(t, everyone)
	gone, before := time.Now(), len(f.lives)
	elapse(pause)
	if entries, err := inspector.SchedulerEntries(); err != nil || len(entries) > 0 {
		t.Errorf("the Schedulers page still lists %d entries of the dead, %v", len(entries), err)
	}
	back := time.Now()
	f.start(t, server, everyone)
	redistest.Eventually(t, 20*time.Second, "the Schedulers page lists all five", func() bool {
		entries, err := inspector.SchedulerEntries()
		if err != nil || len(entries) != len(everyone) {
			return false
		}
		for _, e := range entries {
			if e.Spec != "@every 2s" || e.Task.Type() != string(tasks.KindLockSweep) || time.Until(e.Next) > sweepEvery {
				t.Errorf("listed: %+v", e)
			}
		}
		return true
	})
	for _, l := range f.running {
		if code := l.end(t, syscall.SIGTERM); code != exitDone {
			t.Errorf("a scheduler that was told to end: exit %d", code)
		}
	}
	if entries, err := inspector.SchedulerEntries(); err != nil || len(entries) > 0 {
		t.Errorf("%d entries are left by those that ended, %v", len(entries), err)
	}
	var swept, superseded []line
	redistest.Eventually(t, time.Minute, "all sweeps are carried out", func() bool {
		swept, superseded = nil, nil
		for _, w := range workers {
			swept = append(swept, lines(t, w.log(), "swept")...)
			superseded = append(superseded, lines(t, w.log(), "superseded")...)
		}
		return len(swept)+len(superseded) >= len(tr.ticked())+byHand
	})

	ticks := tr.ticked()
	checkTicks(t, ticks)
	during := slices.DeleteFunc(slices.Clone(ticks), func(k tick) bool { return k.at.After(gone) })
	after := ticks[len(during):]
	f.checkNothingIsLost(t, during, begin, gone)
	checkCatchUp(t, after, f.lives[before:], back)
	for _, l := range f.lives[:before] {
		for _, told := range lines(t, l.log(), "a missed sweep is caught up") {
			if slotsWithout(ticks, told.Last.Add(sweepEvery), told.Tick) == 0 {
				t.Errorf("a replica caught up the sweep of %s after that of %s; none was missed", told.Tick, told.Last)
			}
		}
	}
	spans := tr.sweeps(t)
	checkSweeps(t, spans, swept, len(ticks)+byHand-len(superseded))
	// Of those that had gathered one was enough. Later ones are superseded only where
	// a late tick and a punctual one came together.
	gathered := len(slices.DeleteFunc(slices.Clone(ticks), func(k tick) bool { return k.at.After(begin.Add(kills / 2)) }))
	if n := len(superseded); n < gathered-1 || n > gathered+len(ticks)/2 {
		t.Errorf("%d of %d sweeps are superseded; want about %d", n, len(ticks), gathered-1)
	}
	if n := sim.Stats().Released; n > stale {
		t.Errorf("%d locks were released; %d were stale", n, stale)
	}
	t.Logf("%d schedulers lived; %d ticks in %.0f s, and %d after the pause; %d sweeps, and %d superseded", len(f.lives), len(during), gone.Sub(begin).Seconds(), len(after), len(swept), len(superseded))
}

// enqueueSweeps enqueues some that no scheduler knows of.
func enqueueSweeps(t *testing.T, server *redistest.Server, n int) int {
	t.Helper()
	payload, err := tasks.Encode(tasks.LockSweep{Max: 100, MaxShare: 1}, tasks.Intent{})
	if err != nil {
		t.Fatal(err)
	}
	client := asynq.NewClientFromRedisClient(server.Client())
	for range n {
		if _, err := client.Enqueue(asynq.NewTask(string(tasks.KindLockSweep), payload), asynq.Queue(tasks.QueueSweep), asynq.MaxRetry(tasks.MaxRetry)); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// checkTicks: each has one name of its own, and that of its time.
func checkTicks(t *testing.T, ticks []tick) {
	t.Helper()
	seen := map[time.Time]bool{}
	for _, k := range ticks {
		if seen[k.slot] {
			t.Errorf("the tick of %s is doubled", k.slot)
		}
		seen[k.slot] = true
		if late := k.at.Sub(k.slot); late < 0 || late > sweepEvery+time.Second {
			t.Errorf("the tick of %s is enqueued %s later; want less than %s", k.slot, late, sweepEvery)
		}
	}
}

// checkNothingIsLost: there is a tick in all slots in which some scheduler lived
// from the beginning to the end, and never a long time without one.
func (f *fleet) checkNothingIsLost(t *testing.T, ticks []tick, begin, gone time.Time) {
	t.Helper()
	const most = 2*sweepEvery + 4*time.Second // two slots; and the longest time for which all may be dead, and begin
	last, longest := begin, time.Duration(0)
	for _, k := range append(slices.Clone(ticks), tick{at: gone}) {
		longest, last = max(longest, k.at.Sub(last)), k.at
	}
	if longest > most {
		t.Errorf("no tick for %s", longest)
	}
	owed, without := 0, 0
	for slot := begin.Truncate(sweepEvery).Add(sweepEvery); slot.Before(gone); slot = slot.Add(sweepEvery) {
		if f.lived(t, slot, slot.Add(sweepEvery)) {
			owed++
			without += slotsWithout(ticks, slot, slot.Add(sweepEvery))
		}
	}
	t.Logf("at most %.1f s without a tick; %d slots in which somebody lived all the time, %d of them without a tick", longest.Seconds(), owed, without)
	if without > 1 { // a tick may be late on a busy machine, and count for the next slot
		t.Errorf("%d of %d slots are without a tick", without, owed)
	}
}

// checkCatchUp: after the pause the current tick is enqueued at once, and none of
// the others that were missed.
func checkCatchUp(t *testing.T, ticks []tick, lives []*life, back time.Time) {
	t.Helper()
	if len(ticks) == 0 {
		t.Fatal("nothing is caught up")
	}
	first := ticks[0]
	for _, k := range ticks {
		if k.slot.Before(first.slot) || k.at.Before(back) {
			t.Errorf("the tick of %s is enqueued at %s, that of %s was the first at %s", k.slot, k.at, first.slot, back)
		}
	}
	if first.slot.Before(back.Truncate(sweepEvery)) {
		t.Errorf("the tick of %s is caught up at %s; want the latest", first.slot, back)
	}
	var told []line
	ready := time.Time{}
	for _, l := range lives {
		told = append(told, lines(t, l.log(), "a missed sweep is caught up")...)
		if at := l.ready(t); ready.IsZero() || at.Before(ready) {
			ready = at
		}
	}
	if len(told) != 1 || !told[0].Tick.Equal(first.slot) || first.at.After(ready) {
		t.Errorf("%d are caught up: %+v; want that of %s alone, before its ticks begin", len(told), told, first.slot)
	}
}

// checkSweeps: no two at a time, and each that the workers tell of was alone.
func checkSweeps(t *testing.T, spans []span, swept []line, want int) {
	t.Helper()
	if len(swept) != want {
		t.Errorf("%d sweeps; want %d", len(swept), want)
	}
	const slack = 10 * time.Millisecond // between the clock of a log and that of Redis
	for _, s := range swept {
		i := slices.IndexFunc(spans, func(sp span) bool {
			return !s.TS.Before(sp.from.Add(-slack)) && !s.TS.After(sp.to.Add(slack))
		})
		if i < 0 {
			t.Errorf("the sweep of %s was not alone, or had no lease", s.TS)
			continue
		}
		spans = slices.Delete(slices.Clone(spans), i, i+1)
	}
}

// slotsWithout counts the slots without a tick.
func slotsWithout(ticks []tick, from, to time.Time) (n int) {
	for slot := from.Truncate(sweepEvery); slot.Before(to); slot = slot.Add(sweepEvery) {
		if !slices.ContainsFunc(ticks, func(k tick) bool { return k.slot.Equal(slot) }) {
			n++
		}
	}
	return n
}

// life is a scheduler from its start to its end.
type life struct {
	*process
	ended time.Time
}

// ready is when its ticks begin; zero if it did not live to see it.
func (l *life) ready(t *testing.T) time.Time {
	t.Helper()
	for _, told := range lines(t, l.log(), "sweeps are scheduled") {
		return told.TS
	}
	return time.Time{}
}

type fleet struct {
	running []*life
	lives   []*life
}

func (f *fleet) start(t *testing.T, server *redistest.Server, which []int) {
	t.Helper()
	for _, i := range which {
		l := &life{process: startProcess(t, nil, "scheduler", "--redis-url", server.URL(), "--sweep-every", sweepEvery.String(),
			"--max", "100", "--max-share", "1", "--log-level", "debug", "--log-format", "json")}
		f.running[i], f.lives = l, append(f.lives, l)
	}
}

func (f *fleet) kill(t *testing.T, which []int) {
	t.Helper()
	for _, i := range which {
		f.running[i].ended = time.Now()
		f.running[i].end(t, syscall.SIGKILL)
	}
}

// killAndRestart does so with some of them at a time, at random.
func (f *fleet) killAndRestart(t *testing.T, server *redistest.Server, until time.Time) {
	t.Helper()
	const longest = 1500 * time.Millisecond
	for time.Now().Before(until) {
		elapse(rand.N(longest))                                            //nolint:gosec // any moment will do
		victims := rand.Perm(len(f.running))[:1+rand.IntN(len(f.running))] //nolint:gosec // nor does it matter who
		f.kill(t, victims)
		elapse(rand.N(longest)) //nolint:gosec // any moment will do
		f.start(t, server, victims)
	}
}

// lived says whether one scheduler ticked all the time.
func (f *fleet) lived(t *testing.T, from, to time.Time) bool {
	t.Helper()
	return slices.ContainsFunc(f.lives, func(l *life) bool {
		ready := l.ready(t)
		return !ready.IsZero() && !ready.After(from) && !l.ended.Before(to)
	})
}

// line is what is needed of a line of the log.
type line struct {
	TS         time.Time
	Msg        string
	Tick, Last time.Time
}

// lines are those with a message.
func lines(t *testing.T, log, msg string) (out []line) {
	t.Helper()
	for text := range strings.Lines(log) {
		var l line
		if !strings.Contains(text, strconv.Quote(msg)) || !strings.HasSuffix(text, "\n") {
			continue
		}
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		if l.Msg == msg {
			out = append(out, l)
		}
	}
	return out
}

// tick is a sweep's task, when it came into Redis.
type tick struct {
	id       string
	slot, at time.Time
}

// span is a sweep, from taking the lease to giving it back.
type span struct{ from, to time.Time }

// trace is what Redis was told to do, in its order.
type trace struct {
	mu       sync.Mutex
	ticks    []tick
	leases   []lease
	problems []string
}

// lease is one change of who may sweep. An empty owner gives it back.
type lease struct {
	owner string
	life  time.Duration
	at    time.Time
}

// traceRedis watches a Redis until the test ends.
func traceRedis(t *testing.T, server *redistest.Server) *trace {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	if _, err := conn.Write([]byte("MONITOR\r\n")); err != nil {
		t.Fatal(err)
	}
	if ok, err := reader.ReadString('\n'); err != nil || ok != "+OK\r\n" {
		t.Fatalf("MONITOR: %q, %v", ok, err)
	}
	tr := &trace{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			text, err := reader.ReadString('\n')
			if err != nil {
				return
			}
			tr.read(text)
		}
	}()
	t.Cleanup(func() { _ = conn.Close(); <-done })
	return tr
}

// read takes a line such as +1795391234.123456 [0 lua] "SET" "key" "value".
func (tr *trace) read(text string) {
	when, rest, _ := strings.Cut(strings.TrimPrefix(text, "+"), " ")
	_, rest, _ = strings.Cut(rest, "] ")
	var args []string
	for len(args) < 6 {
		quoted, err := strconv.QuotedPrefix(rest)
		if err != nil {
			break
		}
		arg, err := strconv.Unquote(quoted)
		if err != nil {
			break
		}
		args, rest = append(args, arg), strings.TrimLeft(rest[len(quoted):], " ")
	}
	if len(args) < 2 {
		return
	}
	isNew := len(args) == 6 && args[2] == "msg" && args[5] == "pending" // rather than put back
	const taskPrefix, leaseKey = "asynq:{" + tasks.QueueSweep + "}:t:", "{kooworker:locks}:sweeping"
	id, isTask := strings.CutPrefix(args[1], taskPrefix)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	seconds, micros, _ := strings.Cut(when, ".")
	sec, err1 := strconv.ParseInt(seconds, 10, 64)
	usec, err2 := strconv.ParseInt(micros, 10, 64)
	at := time.Unix(sec, usec*1000)
	if err1 != nil || err2 != nil {
		tr.problems = append(tr.problems, text)
	}
	switch command := strings.ToUpper(args[0]); {
	case command == "HSET" && isTask && isNew:
		slot, err := time.Parse(time.RFC3339, id[max(0, len(id)-len("2006-01-02T15:04:05Z")):])
		if err != nil {
			tr.problems = append(tr.problems, fmt.Sprintf("a sweep by the name of %s", id))
		}
		tr.ticks = append(tr.ticks, tick{id: id, slot: slot, at: at})
	case command == "SET" && args[1] == leaseKey && len(args) == 5:
		ms, err := strconv.Atoi(args[4])
		if err != nil {
			tr.problems = append(tr.problems, text)
		}
		tr.leases = append(tr.leases, lease{owner: args[2], life: time.Duration(ms) * time.Millisecond, at: at})
	case command == "DEL" && args[1] == leaseKey:
		tr.leases = append(tr.leases, lease{at: at})
	}
}

func (tr *trace) ticked() []tick {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return slices.Clone(tr.ticks)
}

// sweeps are the times at which somebody held the lease. Nobody may take it
// while somebody else does.
func (tr *trace) sweeps(t *testing.T) (out []span) {
	t.Helper()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, problem := range tr.problems {
		t.Error(problem)
	}
	owner, until := "", time.Time{}
	for _, l := range tr.leases {
		switch {
		case l.owner == "":
			out[len(out)-1].to, owner = l.at, ""
		case l.owner != owner && owner != "" && l.at.Before(until):
			t.Errorf("%s begins to sweep at %s, and %s is at it", l.owner, l.at, owner)
			fallthrough
		case l.owner != owner:
			out = append(out, span{from: l.at})
			fallthrough
		default:
			owner, until = l.owner, l.at.Add(l.life)
			out[len(out)-1].to = until
		}
	}
	return out
}
