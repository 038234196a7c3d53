package main

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

// A master hangs. The lanes on the others go on.
func TestCluster_OneMasterHangs(t *testing.T) {
	t.Parallel()
	testHungMaster(t, 0, 9*time.Second)
}

// testHungMaster lets one of the masters hang for a while.
func testHungMaster(t *testing.T, which int, outage time.Duration) {
	t.Helper()
	const delay, slots = 100 * time.Millisecond, 16
	c := newRedisCluster(t, false, "--cluster-node-timeout", "100000")
	api := newFakeAPI(t, delay)
	on := c.lanesOn()
	bad := c.Masters[which]
	// Batches whose ledgers are on the bad master, and whose lanes may be on another.
	const inBatch = 100
	var batches []string
	for i := 0; len(batches) < 3; i++ {
		if id := fmt.Sprint("b-", i); c.MasterOf("{batch:"+id+"}") == bad {
			batches = append(batches, id)
			csv := strings.ReplaceAll(unbindsCSV(inBatch), ",device-", ","+id+"-")
			if r := kooworker(t, csv, c.flags("enqueue", "unbind", "--file", "-", "--batch", id)...); r.code != exitDone {
				t.Fatalf("%+v; want exit 0", r)
			}
		}
	}
	var healthy []string
	for master, lanes := range on {
		perLane := int(outage/delay) * slots * 2 / len(lanes) // more than can be done
		if c.fill(t, perLane, lanes...); master != bad {
			healthy = append(healthy, lanes...)
		}
	}
	p := c.startWorker(t, api.URL, "--concurrency", fmt.Sprint(slots))
	logOf(t, p)
	rate := func(d time.Duration, lanes []string) float64 {
		before, _ := api.doneIn(lanes...)
		letTimePass(d)
		after, _ := api.doneIn(lanes...)
		return float64(after-before) / d.Seconds()
	}
	redistest.Eventually(t, 30*time.Second, "tasks of all masters are done", func() bool {
		n, _ := api.doneIn(on[bad]...)
		return n > 20
	})
	before := rate(3*time.Second, healthy)
	bad.Freeze()
	var during []float64
	for began := time.Now(); time.Since(began) < outage; {
		during = append(during, rate(time.Second, healthy))
	}
	bad.Thaw()
	t.Logf("healthy lanes: %.0f/s before, then %.0f", before, during)
	sum := 0.0
	for _, r := range during {
		sum += r
	}
	if mean := sum / float64(len(during)); mean < before/2 {
		t.Errorf("healthy lanes: %.0f/s while another master hung; want at least half of %.0f", mean, before)
	}
	redistest.Eventually(t, time.Minute, "the bad master's lanes go on", func() bool { return rate(time.Second, on[bad]) > 0 })
	if _, twice := api.doneIn(healthy...); twice > 0 {
		t.Errorf("%d tasks of healthy lanes were done twice; want none", twice)
	}
	api.delay.Store(0)
	for _, id := range batches {
		if r := kooworker(t, "", c.flags("batch", "wait", id, "--timeout", "90s")...); r.code != exitDone {
			t.Errorf("%+v; want exit 0", r)
		}
		if r := kooworker(t, "", c.flags("batch", "audit", id, "--json")...); r.object(t)["clean"] != true {
			t.Errorf("%s: %+v; want a clean audit", id, r)
		}
		if got := counts(kooworker(t, "", c.flags("batch", "show", id, "--json")...).object(t)); got["succeeded"] != inBatch {
			t.Errorf("%s: %v; want %d succeeded: the worker remembers what KooDrive has answered", id, got, inBatch)
		}
	}
	if code := p.end(t, syscall.SIGTERM); code != exitDone {
		t.Errorf("SIGTERM: exit %d; want 0", code)
	}
	checkOutageLines(t, p, bad.Addr())
}

// checkOutageLines checks what a worker has written about the outage of one master.
func checkOutageLines(t *testing.T, p *process, master string) {
	t.Helper()
	n, isNamed := 0, false
	for line := range strings.Lines(p.log()) {
		if strings.Contains(line, `"level":"info"`) {
			continue // tasks that are done, and the like
		}
		n++
		isNamed = isNamed || strings.Contains(line, "Redis does not answer") && strings.Contains(line, master)
		checkReadable(t, line)
	}
	if n > maxOutageLines || !isNamed {
		t.Errorf("%d warnings and errors, %s is named: %t; want at most %d, and that one names it", n, master, isNamed, maxOutageLines)
	}
}

// A master is killed while a batch is drained and tasks are enqueued. Its replica takes over.
func TestCluster_MasterKilled(t *testing.T) {
	t.Parallel()
	const n, perLane = 1500, 60
	c := newRedisCluster(t, true, "--cluster-node-timeout", "1500")
	api := newFakeAPI(t, 30*time.Millisecond)
	r := kooworker(t, unbindsCSV(n), c.flags("enqueue", "unbind", "--file", "-", "--batch", "b-1", "--json")...)
	if r.code != exitDone || r.object(t)["enqueued"] != float64(n) {
		t.Fatalf("%+v; want exit 0 and %d enqueued", r, n)
	}
	victim := c.MasterOf("{batch:b-1}")
	var lanes []string
	for _, names := range c.lanesOn() {
		lanes = append(lanes, names...)
	}
	c.fill(t, perLane, lanes...)
	worker := c.startWorker(t, api.URL)
	logOf(t, worker)
	early, late := newProducer(t, c.rdb), newProducer(t, c.rdb)
	early.prefix, late.prefix = "early-", "late-"
	stop := early.stream(t.Context(), 50)
	redistest.Eventually(t, 30*time.Second, "the drain is under way", func() bool { done, _ := api.executed(); return done > 300 })
	replicated := early.acknowledged()
	letTimePass(500 * time.Millisecond) // until the replicas have them
	killed := time.Now()
	victim.Kill()
	redistest.Eventually(t, 30*time.Second, "a replica has taken over", func() bool { return c.rdb.Exists(t.Context(), "kooworker:{batch:b-1}:meta").Val() == 1 })
	t.Logf("a replica had taken over %.1f s after the kill", time.Since(killed).Seconds())
	late.enqueueMany(t, 100)
	stop()

	redistest.Eventually(t, 90*time.Second, "all tasks are done", func() bool {
		done, _ := api.doneIn(lanes...)
		missing := slices.DeleteFunc(early.missing(api), func(target string) bool { return !replicated[target] })
		return done == perLane*len(lanes) && len(missing)+len(late.missing(api)) == 0
	})
	t.Logf("%d of %d tasks are missing that the master had acknowledged around the kill", len(early.missing(api)), len(early.acknowledged())-len(replicated))
	if r := kooworker(t, "", c.flags("batch", "wait", "b-1", "--timeout", "60s")...); r.code != exitDone {
		// What the killed master had acknowledged and not yet replicated is lost, receipts too.
		t.Logf("receipts were lost: %+v", r)
		if r := kooworker(t, unbindsCSV(n), c.flags("enqueue", "unbind", "--file", "-", "--batch", "b-1", "--restore", "--wait", "--wait-timeout", "60s")...); r.code != exitDone {
			t.Fatalf("%+v; want exit 0", r)
		}
	}
	if r := kooworker(t, "", c.flags("batch", "audit", "b-1", "--json")...); r.code != exitDone || r.object(t)["clean"] != true {
		t.Errorf("audit: %+v; want exit 0 and a clean audit", r)
	}
	state := counts(kooworker(t, "", c.flags("batch", "show", "b-1", "--json")...).object(t))
	if state["total"] != n || state["succeeded"]+state["already_gone"] != n {
		t.Errorf("%v; want %d, all of them succeeded or already gone", state, n)
	}
	for _, receipt := range kooworker(t, "", c.flags("batch", "receipts", "b-1")...).lines(t) {
		if receipt["attempts"] != 1.0 {
			t.Fatalf("%v; want one attempt, since nothing is charged", receipt)
		}
	}
	if stats := kooworker(t, "", c.flags("dead", "stats", "--json")...).object(t); stats["total"] != 0.0 {
		t.Errorf("dead letters: %v; want none", stats)
	}
}

// The slot of a busy lane moves to another master.
func TestCluster_SlotMigrated(t *testing.T) {
	t.Parallel()
	const perLane = 200
	lane := tasks.LaneBulk.Of(tasks.QueueUnbind)
	c := newRedisCluster(t, false)
	api := newFakeAPI(t, 20*time.Millisecond)
	var lanes []string
	for _, names := range c.lanesOn() {
		lanes = append(lanes, names...)
	}
	c.fill(t, perLane, lanes...)
	worker := c.startWorker(t, api.URL)
	logOf(t, worker)
	redistest.Eventually(t, 30*time.Second, "the drain is under way", func() bool { done, _ := api.doneIn(lane); return done > 20 })
	began := time.Now()
	before, _ := api.executed()
	from := c.MasterOf("{" + lane + "}")
	to := c.Masters[0]
	if to == from {
		to = c.Masters[1]
	}
	keys := c.Migrate("{"+lane+"}", from, to, 150*time.Millisecond)
	during, _ := api.executed()
	t.Logf("%d keys moved in %.1f s; %d tasks were done meanwhile", keys, time.Since(began).Seconds(), during-before)
	redistest.Eventually(t, 90*time.Second, "all tasks are done", func() bool {
		done, _ := api.doneIn(lanes...)
		return done == perLane*len(lanes)
	})
	redistest.Eventually(t, 60*time.Second, "no task is left", func() bool {
		left := int64(0)
		for _, lane := range lanes {
			for _, list := range []string{"pending", "active"} {
				left += c.rdb.LLen(t.Context(), "asynq:{"+lane+"}:"+list).Val()
			}
			left += c.rdb.ZCard(t.Context(), "asynq:{"+lane+"}:retry").Val()
		}
		return left == 0
	})
	if stats := kooworker(t, "", c.flags("dead", "stats", "--json")...).object(t); stats["total"] != 0.0 {
		t.Errorf("dead letters: %v; want none", stats)
	}
}

// logOf shows what a worker has logged if the test fails.
func logOf(t *testing.T, p *process) {
	t.Helper()
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for line := range strings.Lines(p.log()) {
			if !strings.Contains(line, `"succeeded"`) {
				t.Log(strings.TrimSpace(line))
			}
		}
	})
}
