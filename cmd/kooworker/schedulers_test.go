package main

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

// A short form of the test of `make chaos`.
func TestScheduler_SurvivesKills(t *testing.T) {
	t.Parallel()
	testKilledSchedulers(t, 5*time.Second, 5*time.Second)
}

// sweepEvery is the schedule of the schedulers here.
const sweepEvery = 2 * time.Second

// testKilledSchedulers kills and restarts five schedulers at random for the time
// kills, then lets none run during the pause, and starts all of them again. Two
// workers carry out the sweeps, but not before half of kills is over. By then
// several sweeps wait, some of which belong to no tick, and would run at the same
// time if they could.
func testKilledSchedulers(t *testing.T, kills, pause time.Duration) {
	t.Helper()
	server := redistest.Start(t)
	sim, url := startSimulator(t)
	const stale = 3000 // a sweep releases a hundred of them, so that it takes a while
	trackLocks(t, server, sim, stale, stale)
	inspector := asynq.NewInspectorFromRedisClient(server.Client())
	if err := inspector.PauseQueue(tasks.QueueSweep); err != nil {
		t.Fatal(err)
	}
	byHand := enqueueSweeps(t, server, 2)
	tr := traceRedis(t, server)
	workers := []*process{startWorker(t, server, url, "--log-format", "json"), startWorker(t, server, url, "--log-format", "json")}
	f := &schedulerFleet{running: make([]*schedulerRun, 5)}
	everyone := []int{0, 1, 2, 3, 4}

	f.start(t, server, everyone)
	redistest.Eventually(t, 20*time.Second, "a first tick, without which none can be missed", func() bool {
		return len(tr.ticked()) > 0
	})
	begin := time.Now()
	f.killAndRestart(t, server, begin.Add(kills/2))
	if err := inspector.UnpauseQueue(tasks.QueueSweep); err != nil {
		t.Fatal(err)
	}
	f.killAndRestart(t, server, begin.Add(kills))
	f.kill(t, everyone)
	gone, before := time.Now(), len(f.runs)
	letTimePass(pause)
	if entries, err := inspector.SchedulerEntries(); err != nil || len(entries) > 0 {
		t.Errorf("the Schedulers page lists %d entries of killed schedulers, %v; want 0", len(entries), err)
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
				t.Errorf("the Schedulers page lists %+v; want a lock:sweep @every 2s, with the next tick within %s", e, sweepEvery)
			}
		}
		return true
	})
	for _, l := range f.running {
		if code := l.end(t, syscall.SIGTERM); code != exitDone {
			t.Errorf("a scheduler after SIGTERM: exit %d; want exit 0", code)
		}
	}
	if entries, err := inspector.SchedulerEntries(); err != nil || len(entries) > 0 {
		t.Errorf("%d entries are left by schedulers that ended, %v; want 0", len(entries), err)
	}
	var swept, superseded []logLine
	redistest.Eventually(t, time.Minute, "all sweeps are carried out", func() bool {
		swept, superseded = nil, nil
		for _, w := range workers {
			swept = append(swept, logLines(t, w.log(), "swept")...)
			superseded = append(superseded, logLines(t, w.log(), "superseded")...)
		}
		return len(swept)+len(superseded) >= len(tr.ticked())+byHand
	})

	ticks := tr.ticked()
	checkTicks(t, ticks)
	during := slices.DeleteFunc(slices.Clone(ticks), func(k tick) bool { return k.at.After(gone) })
	after := ticks[len(during):]
	f.checkNoTickIsLost(t, during, begin, gone)
	checkCatchUp(t, after, f.runs[before:], back)
	for _, l := range f.runs[:before] {
		for _, line := range logLines(t, l.log(), "a missed sweep is caught up") {
			if emptySlots(ticks, line.Last.Add(sweepEvery), line.Tick) == 0 {
				t.Errorf("a replica caught up the sweep of %s after that of %s; want this only if one was missed", line.Tick, line.Last)
			}
		}
	}
	spans := tr.sweeps(t)
	checkSweeps(t, spans, swept, len(ticks)+byHand-len(superseded))
	// Of the sweeps that had gathered, one ran and superseded the others. Later sweeps are
	// superseded only if a late tick and a punctual one come together.
	gathered := len(slices.DeleteFunc(slices.Clone(ticks), func(k tick) bool { return k.at.After(begin.Add(kills / 2)) }))
	if n := len(superseded); n < gathered-1 || n > gathered+len(ticks)/2 {
		t.Errorf("%d of %d sweeps are superseded; want about %d", n, len(ticks), gathered-1)
	}
	if n := sim.Stats().Released; n > stale {
		t.Errorf("%d locks were released; want at most the %d stale ones", n, stale)
	}
	t.Logf("%d schedulers ran; %d ticks in %.0f s, and %d after the pause; %d sweeps, and %d superseded", len(f.runs), len(during), gone.Sub(begin).Seconds(), len(after), len(swept), len(superseded))
}

// enqueueSweeps enqueues n sweeps that belong to no tick.
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

// checkTicks checks that each tick has a task ID of its own, which names its time.
func checkTicks(t *testing.T, ticks []tick) {
	t.Helper()
	seen := map[time.Time]bool{}
	for _, k := range ticks {
		if seen[k.slot] {
			t.Errorf("the tick of %s was enqueued twice; want once", k.slot)
		}
		seen[k.slot] = true
		if late := k.at.Sub(k.slot); late < 0 || late > sweepEvery+time.Second {
			t.Errorf("the tick of %s is enqueued %s later; want less than %s", k.slot, late, sweepEvery)
		}
	}
}

// checkNoTickIsLost checks that there is a tick in every slot during all of which at
// least one scheduler ran, and that there is never a long time without a tick.
func (f *schedulerFleet) checkNoTickIsLost(t *testing.T, ticks []tick, begin, gone time.Time) {
	t.Helper()
	const most = 2*sweepEvery + 4*time.Second // two slots, and the longest time for which all may be dead or starting
	last, longest := begin, time.Duration(0)
	for _, k := range append(slices.Clone(ticks), tick{at: gone}) {
		longest, last = max(longest, k.at.Sub(last)), k.at
	}
	if longest > most {
		t.Errorf("no tick for %s; want at most %s", longest, most)
	}
	owed, without := 0, 0
	for slot := begin.Truncate(sweepEvery).Add(sweepEvery); slot.Before(gone); slot = slot.Add(sweepEvery) {
		if f.covered(t, slot, slot.Add(sweepEvery)) {
			owed++
			without += emptySlots(ticks, slot, slot.Add(sweepEvery))
		}
	}
	t.Logf("at most %.1f s without a tick; %d slots during which a scheduler ran all the time, %d of them without a tick", longest.Seconds(), owed, without)
	if without > 1 { // on a busy machine a tick may be late and count for the next slot
		t.Errorf("%d of %d slots are without a tick; want at most 1", without, owed)
	}
}

// checkCatchUp checks that after the pause the current tick is enqueued at once, and
// that no other missed tick is.
func checkCatchUp(t *testing.T, ticks []tick, runs []*schedulerRun, back time.Time) {
	t.Helper()
	if len(ticks) == 0 {
		t.Fatal("no tick after the pause; want the current one to be caught up")
	}
	first := ticks[0]
	for _, k := range ticks {
		if k.slot.Before(first.slot) || k.at.Before(back) {
			t.Errorf("the tick of %s is enqueued at %s; want ticks from %s on, after %s only", k.slot, k.at, first.slot, back)
		}
	}
	if first.slot.Before(back.Truncate(sweepEvery)) {
		t.Errorf("the tick of %s is caught up at %s; want the latest", first.slot, back)
	}
	var caughtUp []logLine
	ready := time.Time{}
	for _, l := range runs {
		caughtUp = append(caughtUp, logLines(t, l.log(), "a missed sweep is caught up")...)
		if at := l.ready(t); ready.IsZero() || at.Before(ready) {
			ready = at
		}
	}
	if len(caughtUp) != 1 || !caughtUp[0].Tick.Equal(first.slot) || first.at.After(ready) {
		t.Errorf("%d are caught up: %+v; want that of %s alone, before its ticks begin", len(caughtUp), caughtUp, first.slot)
	}
}

// checkSweeps checks that each sweep that a worker logs held the lease alone.
func checkSweeps(t *testing.T, spans []span, swept []logLine, want int) {
	t.Helper()
	if len(swept) != want {
		t.Errorf("%d sweeps; want %d", len(swept), want)
	}
	const slack = 10 * time.Millisecond // the clocks of the log and of Redis may differ by this
	for _, s := range swept {
		i := slices.IndexFunc(spans, func(sp span) bool {
			return !s.TS.Before(sp.from.Add(-slack)) && !s.TS.After(sp.to.Add(slack))
		})
		if i < 0 {
			t.Errorf("the sweep of %s shared the lease, or had none; want the lease to itself", s.TS)
			continue
		}
		spans = slices.Delete(slices.Clone(spans), i, i+1)
	}
}

// emptySlots counts the slots without a tick.
func emptySlots(ticks []tick, from, to time.Time) (n int) {
	for slot := from.Truncate(sweepEvery); slot.Before(to); slot = slot.Add(sweepEvery) {
		if !slices.ContainsFunc(ticks, func(k tick) bool { return k.slot.Equal(slot) }) {
			n++
		}
	}
	return n
}

// schedulerRun is a scheduler process from its start to its end.
type schedulerRun struct {
	*process
	ended time.Time
}

// ready returns when its ticks begin; zero if it was killed before.
func (l *schedulerRun) ready(t *testing.T) time.Time {
	t.Helper()
	for _, line := range logLines(t, l.log(), "sweeps are scheduled") {
		return line.TS
	}
	return time.Time{}
}

type schedulerFleet struct {
	running []*schedulerRun
	runs    []*schedulerRun
}

func (f *schedulerFleet) start(t *testing.T, server *redistest.Server, which []int) {
	t.Helper()
	for _, i := range which {
		l := &schedulerRun{process: startProcess(t, nil, "scheduler", "--redis-url", server.URL(), "--sweep-every", sweepEvery.String(),
			"--max", "100", "--max-share", "1", "--log-level", "debug", "--log-format", "json")}
		f.running[i], f.runs = l, append(f.runs, l)
	}
}

func (f *schedulerFleet) kill(t *testing.T, which []int) {
	t.Helper()
	for _, i := range which {
		f.running[i].ended = time.Now()
		f.running[i].end(t, syscall.SIGKILL)
	}
}

// killAndRestart kills and restarts random schedulers, several at a time.
func (f *schedulerFleet) killAndRestart(t *testing.T, server *redistest.Server, until time.Time) {
	t.Helper()
	const longest = 1500 * time.Millisecond
	for time.Now().Before(until) {
		letTimePass(rand.N(longest))                                       //nolint:gosec // any moment will do
		victims := rand.Perm(len(f.running))[:1+rand.IntN(len(f.running))] //nolint:gosec // any of them will do
		f.kill(t, victims)
		letTimePass(rand.N(longest)) //nolint:gosec // any moment will do
		f.start(t, server, victims)
	}
}

// covered reports whether one scheduler ticked all the time.
func (f *schedulerFleet) covered(t *testing.T, from, to time.Time) bool {
	t.Helper()
	return slices.ContainsFunc(f.runs, func(l *schedulerRun) bool {
		ready := l.ready(t)
		return !ready.IsZero() && !ready.After(from) && !l.ended.Before(to)
	})
}

// logLine has the fields of a log line that are needed here.
type logLine struct {
	TS         time.Time
	Msg        string
	Tick, Last time.Time
}

// logLines returns the log lines with a message.
func logLines(t *testing.T, log, msg string) (out []logLine) {
	t.Helper()
	for text := range strings.Lines(log) {
		var l logLine
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
