package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// redisCluster is a cluster of three masters, and what tests of the commands need there.
type redisCluster struct {
	*redistest.Cluster
	rdb *redis.ClusterClient
}

func newRedisCluster(t *testing.T, withReplicas bool, args ...string) redisCluster {
	t.Helper()
	c := redistest.StartCluster(t, 3, withReplicas, args...)
	return redisCluster{c, c.Client()}
}

// flags make a command use the cluster.
func (c redisCluster) flags(args ...string) []string {
	return append(args, "--redis-cluster", strings.Join(c.Nodes(), ","))
}

func (c redisCluster) startWorker(t *testing.T, url string, args ...string) *process {
	t.Helper()
	p := startProcess(t, []string{"KOODRIVE_TOKEN=t0ken"}, c.flags(append([]string{"worker", "--koodrive-url", url, "--concurrency", "16", "--backoff-first", "1s"}, args...)...)...)
	redistest.Eventually(t, 30*time.Second, "the worker runs", func() bool { return strings.Contains(p.log(), "worker is running") })
	return p
}

// lanesOn returns the lanes of unbinds, by the master that has them.
func (c redisCluster) lanesOn() map[*redistest.Server][]string {
	out := make(map[*redistest.Server][]string)
	for _, name := range slices.Sorted(maps.Keys(tasks.QueueWeights())) {
		if queue, _ := tasks.SplitQueue(name); queue == tasks.QueueUnbind {
			master := c.MasterOf("{" + name + "}")
			out[master] = append(out[master], name)
		}
	}
	return out
}

// fill puts n unbinds without a batch into each of some lanes. Their targets begin with
// the name of the lane.
func (c redisCluster) fill(t *testing.T, n int, lanes ...string) {
	t.Helper()
	client := asynq.NewClientFromRedisClient(c.rdb)
	var wg sync.WaitGroup
	for _, lane := range lanes {
		wg.Go(func() {
			for i := range n {
				id := fmt.Sprint(lane, "_", i)
				task := asynq.NewTask(string(tasks.KindDeviceUnbind), fmt.Appendf(nil, `{"v":1,"user_id":"u","device_id":%q}`, id))
				if _, err := client.EnqueueContext(t.Context(), task, asynq.Queue(lane), asynq.TaskID(id), asynq.MaxRetry(tasks.MaxRetry), asynq.Timeout(tasks.Timeout)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// doneIn returns how many targets of some lanes were done, and how many of them twice.
func (l *fakeAPI) doneIn(lanes ...string) (done, twice int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for target, n := range l.done {
		if lane, _, _ := strings.Cut(target, "_"); slices.Contains(lanes, lane) {
			done++
			if n > 1 {
				twice++
			}
		}
	}
	return done, twice
}

// The lanes of batches are spread over the masters, as even as their number allows.
func TestCluster_LanesOfBatchesAreSpread(t *testing.T) {
	t.Parallel()
	c := newRedisCluster(t, false)
	for _, queue := range []string{tasks.QueueUnbind, tasks.QueueRelease, tasks.QueueOffboard} {
		lanes := make(map[*redistest.Server]int)
		for _, lane := range tasks.BatchLanes() {
			lanes[c.MasterOf("{"+lane.Of(queue)+"}")]++
		}
		for i, master := range c.Masters {
			if n, even := lanes[master], len(tasks.BatchLanes())/len(c.Masters); n < even || n > even+1 {
				t.Errorf("%s: master %d has %d lanes of batches; want %d or %d", queue, i, n, even, even+1)
			}
		}
	}
}

// Everything that works over one Redis works over a cluster.
func TestCluster_Commands(t *testing.T) {
	t.Parallel()
	c := newRedisCluster(t, false)
	sim, url := startSimulator(t, "forbidden,target=bad-*")
	run := func(want int, stdin string, args ...string) result {
		t.Helper()
		r := kooworker(t, stdin, c.flags(args...)...)
		if r.code != want {
			t.Fatalf("%v: %+v; want exit %d", args, r, want)
		}
		return r
	}
	worker := c.startWorker(t, url)
	logOf(t, worker)

	// Single orders, and a dead letter that is replayed.
	sim.Bind("u", simulator.Device{DeviceID: "d-1"})
	sim.AddLock("u", "l-1@102", time.Now().Add(time.Hour))
	run(exitDone, "", "enqueue", "unbind", "--user-id", "u", "--device-id", "d-1")
	run(exitDone, "", "enqueue", "release", "--user-id", "u", "--lock-id", "l-1@102", "--urgent")
	run(exitDone, "", "enqueue", "unbind", "--user-id", "u", "--device-id", "bad-1")
	redistest.Eventually(t, 20*time.Second, "both are done", func() bool { s := sim.Stats(); return s.Unbound == 1 && s.Released == 1 })
	redistest.Eventually(t, 20*time.Second, "the third is dead", func() bool {
		return run(exitDone, "", "dead", "stats", "--json").object(t)["total"] == 1.0
	})
	if letters := run(exitDone, "", "dead", "list", "--json").lines(t); len(letters) != 1 || letters[0]["target"] != "bad-1" {
		t.Errorf("dead letters: %v; want that of bad-1", letters)
	}
	sim.ClearFaults()
	sim.Bind("u", simulator.Device{DeviceID: "bad-1"})
	redistest.Eventually(t, 20*time.Second, "the letter is parked and replayed", func() bool {
		return run(exitDone, "", "dead", "replay", "--all", "--json").object(t)["done"] == 1.0
	})
	redistest.Eventually(t, 20*time.Second, "its device is unbound", func() bool { return sim.Stats().Unbound == 2 })

	// Batches, whose ledgers are on all masters.
	const batches, n = 6, 300
	for i := range batches {
		id := fmt.Sprint("b-", i)
		r := run(exitDone, unbindsCSV(n), "enqueue", "unbind", "--file", "-", "--batch", id, "--wait", "--wait-timeout", "60s", "--json")
		if got := counts(run(exitDone, "", "batch", "show", id, "--json").object(t)); got["already_gone"] != n {
			t.Errorf("%s: %v, %+v; want %d already gone", id, got, r, n)
		}
		if run(exitDone, "", "batch", "audit", id, "--json").object(t)["clean"] != true {
			t.Errorf("%s: the audit is not clean", id)
		}
		if got := len(run(exitDone, "", "batch", "receipts", id).lines(t)); got != n {
			t.Errorf("%s: %d receipts; want %d", id, got, n)
		}
	}
	if got := len(run(exitDone, "", "batch", "list", "--json").lines(t)); got != batches {
		t.Errorf("%d batches are listed; want %d", got, batches)
	}

	// A sweep of stale locks, and an off-boarding.
	sim.AddLock("u-1", "l-2@102", time.Now().Add(time.Hour))
	sim.AddLock("u-2", "l-3@102", time.Now().Add(time.Hour))
	sim.Bind("u-2", simulator.Device{DeviceID: "d-2"})
	run(exitDone, "", "locks", "track", "--user-id", "u-1", "--lock-id", "l-2@102", "--expires-in", "1ms")
	run(exitDone, "", "locks", "track", "--user-id", "u-2", "--lock-id", "l-3@102", "--expires-in", "1h")
	swept, _ := run(exitDone, "", "locks", "sweep", "--grace", "1ms", "--max-share", "1", "--json").object(t)["batch"].(string)
	run(exitDone, "", "batch", "wait", swept, "--timeout", "60s")
	run(exitDone, "user_id\nu-2\n", "enqueue", "offboard", "--file", "-", "--batch", "gone", "--wait", "--wait-timeout", "60s")
	if len(sim.Locks("u-1"))+len(sim.Locks("u-2")) != 0 || sim.Stats().Unbound != 3 {
		t.Errorf("locks %v and %v, %d unbound; want no lock, and 3 unbound", sim.Locks("u-1"), sim.Locks("u-2"), sim.Stats().Unbound)
	}

	// What happened to one user, whose receipts are on several masters.
	var sources []any
	for _, l := range run(exitDone, "", "history", "--user-id", "u-2", "--json").lines(t) {
		sources = append(sources, l["source"])
	}
	if n := len(sources); n < 3 || slices.Contains(sources[n-3:], any("batch")) {
		t.Errorf("the history has %v; want an off-boarding, an unbind and a release last", sources)
	}
	forgotten := run(exitDone, "", "history", "forget", "--user-id", "u-2", "--json").object(t)["forgotten"]
	if left := run(exitDone, "", "history", "--user-id", "u-2", "--json").stdout; forgotten != float64(len(sources)) || left != "" {
		t.Errorf("%v of %d are forgotten, and %q is left; want all", forgotten, len(sources), left)
	}
	if code := worker.end(t, syscall.SIGTERM); code != exitDone {
		t.Errorf("SIGTERM: exit %d; want 0", code)
	}
}
