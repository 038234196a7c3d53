package main

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

// queues runs a queue command, and returns its JSON lines by queue.
func queues(t *testing.T, server *redistest.Server, args ...string) map[string]map[string]any {
	t.Helper()
	r := kooworker(t, "", append(append([]string{"queue"}, args...), "--json", "--redis-url", server.URL())...)
	if r.code != exitDone {
		t.Fatalf("%v: %+v; want exit 0", args, r)
	}
	rows := make(map[string]map[string]any)
	for _, row := range r.lines(t) {
		name, _ := row["queue"].(string)
		rows[name] = row
	}
	return rows
}

// Each queue has a row, in which its lanes are added up.
func TestQueueList(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	enqueue := func(args ...string) {
		t.Helper()
		if r := kooworker(t, "", append(append([]string{"enqueue", "unbind", "--user-id", "u-1"}, args...), "--redis-url", server.URL())...); r.code != exitDone {
			t.Fatalf("%v: %+v; want exit 0", args, r)
		}
	}
	enqueue("--device-id", "d-1")
	enqueue("--device-id", "d-2", "--urgent")
	enqueue("--device-id", "d-3", "--in", "1h")
	id := rdb.LIndex(t.Context(), asynqx.PendingKey(tasks.QueueUnbind), -1).Val()
	rdb.HSet(t.Context(), asynqx.TaskKey(tasks.QueueUnbind, id), "pending_since", time.Now().Add(-90*time.Second).UnixNano())
	rdb.ZAdd(t.Context(), asynqx.RetryKey("release-bulk"), redis.Z{Score: 1, Member: "x"}, redis.Z{Score: 2, Member: "y"})
	rdb.LPush(t.Context(), asynqx.ActiveKey("offboard"), "x")

	row := func(queue string, numbers ...int) map[string]any {
		out := map[string]any{"queue": queue, "paused": false, "reason": "", "until": nil}
		for i, key := range []string{"pending", "scheduled", "retry", "active", "oldest_seconds"} {
			out[key] = 0.0
			if i < len(numbers) {
				out[key] = float64(numbers[i])
			}
		}
		return out
	}
	rows := queues(t, server, "list")
	oldest, _ := rows[tasks.QueueUnbind]["oldest_seconds"].(float64)
	if oldest < 90 || oldest > 120 {
		t.Errorf("the oldest unbind waits for %g s; want 90", oldest)
	}
	want := map[string]map[string]any{
		"release": row("release", 0, 0, 2), "unbind": row("unbind", 2, 1, 0, 0, int(oldest)), "offboard": row("offboard", 0, 0, 0, 1),
		"sweep": row("sweep"), "webhook": row("webhook"), "dead-letter": row("dead-letter"),
	}
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Errorf("the rows (-want +got):\n%s", diff)
	}
	lanes := queues(t, server, "list", "--lanes")
	if len(lanes) != len(tasks.QueueWeights()) || lanes["unbind-urgent"]["pending"] != 1.0 || lanes["unbind"]["pending"] != 1.0 {
		t.Errorf("%d lanes, %v, %v; want %d, with a pending task each", len(lanes), lanes["unbind"], lanes["unbind-urgent"], len(tasks.QueueWeights()))
	}
	if r := kooworker(t, "", "queue", "list", "--redis-url", server.URL()); !strings.Contains(r.stdout, "QUEUE") || strings.Count(r.stdout, "\n") != 7 {
		t.Errorf("%+v; want a header and a row for each queue", r)
	}
}

// A pause names who has made it, why, and until when. It can be made again, and ended twice.
func TestQueuePauseAndResume(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	paused := func(rows map[string]map[string]any) (names string) {
		for _, queue := range tasks.Queues() {
			if rows[queue]["paused"] == true {
				names += queue + " "
			}
		}
		return strings.TrimSpace(names)
	}
	for range 2 {
		rows := queues(t, server, "pause", "unbind", "webhook", "--reason", "the wrong file", "--for", "2h")
		if len(rows) != 2 || paused(rows) != "unbind webhook" {
			t.Errorf("%v; want the two queues, paused", rows)
		}
		until, err := time.Parse(time.RFC3339, fmt.Sprint(rows["unbind"]["until"]))
		if left := time.Until(until); err != nil || left < 110*time.Minute || left > 130*time.Minute || rows["unbind"]["reason"] != "the wrong file" {
			t.Errorf("%v, %v; want the reason, and two hours", rows["unbind"], err)
		}
	}
	rows := queues(t, server, "pause", "unbind")
	if rows["unbind"]["reason"] != "" || rows["unbind"]["until"] != nil {
		t.Errorf("%v after a pause without reason and end; want none", rows["unbind"])
	}
	r := kooworker(t, "", "queue", "list", "--redis-url", server.URL())
	for _, want := range []string{"PAUSED", operator(), "resumed", "the wrong file\n"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("%s\nwant %q", r.stdout, want)
		}
	}
	for range 2 {
		if rows := queues(t, server, "resume", "unbind"); len(rows) != 1 || paused(rows) != "" {
			t.Errorf("%v; want unbind, which is not paused", rows)
		}
	}
	if all := paused(queues(t, server, "pause", "--all")); all != strings.Join(tasks.Queues(), " ") {
		t.Errorf("%s are paused; want all queues", all)
	}
	if err := asynq.NewInspectorFromRedisClient(server.Client()).UnpauseQueue("release-bulk"); err != nil {
		t.Fatal(err)
	}
	if r := kooworker(t, "", "queue", "list", "--redis-url", server.URL()); !strings.Contains(r.stdout, "10 of 11 lanes") {
		t.Errorf("%s\nwant 10 of 11 lanes of release", r.stdout)
	}
	if r := kooworker(t, "", "queue", "list", "--lanes", "--redis-url", server.URL()); strings.Count(r.stdout, "10 of 11 lanes of release") != 1 {
		t.Errorf("%s\nwant one line about the ten lanes of release", r.stdout)
	}
	if none := paused(queues(t, server, "resume", "--all")); none != "" {
		t.Errorf("%s are paused; want none", none)
	}
	if keys := server.Client().Keys(t.Context(), "asynq:*:paused").Val(); len(keys) != 0 {
		t.Errorf("%v are left; want no key", keys)
	}
}

func TestQueue_Usage(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"pause":                       "--all",
		"resume":                      "the queues are release, unbind, offboard, sweep, webhook, dead-letter",
		"pause unbind --all":          "want names of queues, or --all",
		"pause unbinds":               `"unbinds" is not a queue; the queues are release, unbind`,
		"resume unbind-batch-7":       "is not a queue",
		"pause unbind --for=-1h":      "want 1s to 365d",
		"pause unbind --for 1ms":      "want 1s to 365d",
		"pause unbind --for 53w":      "want 1s to 365d",
		"pause unbind --for tomorrow": "is not a duration",
		"pause unbind --reason " + strings.Repeat("x", 201): "at most 200",
	} {
		r := kooworker(t, "", append([]string{"queue"}, strings.Fields(args+" --redis-url redis://127.0.0.1:1/0")...)...)
		if r.code != exitUsage || !strings.Contains(r.stderr, want) {
			t.Errorf("%s: %+v; want exit 2 and %q", args, r, want)
		}
	}
}

// Those who watch a batch, wait for it or look at it are told that its queue is paused, by
// whom, why, and until when.
func TestBatch_SaysThatItsQueueIsPaused(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	_, url := startSimulator(t)
	startWorker(t, server, url)
	queues(t, server, "pause", "unbind", "--reason", "the wrong file", "--for", "1h")
	queues(t, server, "pause", "release") // of which the batch has none
	if r := kooworker(t, unbindsCSV(20), "enqueue", "unbind", "--file", "-", "--batch", "b-1", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	paused := "queue unbind is paused by " + operator() + " since 2"
	r := kooworker(t, "", "batch", "show", "b-1", "--redis-url", server.URL())
	if !strings.Contains(r.stdout, "unknown: "+paused) || !strings.Contains(r.stdout, ", until 2") || !strings.Contains(r.stdout, ": the wrong file") || strings.Contains(r.stdout, "queue release") {
		t.Errorf("%+v; want that its queue is paused", r)
	}
	for _, key := range []string{"left_seconds", "paused"} {
		if value, known := kooworker(t, "", "batch", "show", "b-1", "--json", "--redis-url", server.URL()).object(t)[key]; known {
			t.Errorf("%s is %v in JSON; want none", key, value)
		}
	}
	watch := startProcess(t, nil, "batch", "watch", "b-1", "--redis-url", server.URL())
	wait := startProcess(t, nil, "batch", "wait", "b-1", "--redis-url", server.URL())
	redistest.Eventually(t, 30*time.Second, "wait says that the queue is paused", func() bool {
		return strings.Contains(wait.log(), "batch b-1 waits: "+paused) && strings.Contains(wait.log(), ": the wrong file\n")
	})
	redistest.Eventually(t, 30*time.Second, "watch says it beside 0.0/s", func() bool { return strings.Contains(watch.log(), "0.0/s, "+paused) })
	if n := strings.Count(wait.log(), "waits:"); n != 1 {
		t.Errorf("%s\nwant one line about the pause", wait.log())
	}
	queues(t, server, "resume", "unbind")
	for name, p := range map[string]*process{"watch": watch, "wait": wait} {
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("%s: %v\n%s; want exit 0 when the batch is done", name, err, p.log())
		}
	}
}

// Who replays dead letters of a queue that is paused is told that they wait.
func TestDeadReplay_QueueIsPaused(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	queues(t, server, "pause", "unbind", "--reason", "the wrong file")
	r := kooworker(t, "", "dead", "replay", "--all", "--redis-url", server.URL())
	if r.code != exitDone || !strings.Contains(r.stderr, ": the wrong file; what is replayed of it waits\n") {
		t.Errorf("%+v; want a line about the pause", r)
	}
}

// A pause that ends by itself lets the tasks run. While releases are paused, a sweep enqueues
// them, and they wait.
func TestQueuePause_SweepWaitsAndPauseEnds(t *testing.T) {
	t.Parallel()
	const stale = 30
	server := redistest.Start(t)
	sim, url := startSimulator(t)
	trackLocks(t, server, sim, stale, stale)
	queues(t, server, "pause", "release", "--for", "6s")
	p := startWorker(t, server, url)
	if r := kooworker(t, "", "locks", "sweep", "--force", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	if row := queues(t, server, "list")["release"]; row["paused"] == true && (row["pending"] != float64(stale) || len(sim.Log(stale)) != 0) {
		t.Errorf("%v, %v; want %d releases that wait, and no call", row, sim.Log(stale), stale)
	}
	redistest.Eventually(t, 30*time.Second, "the pause ends", func() bool { return queues(t, server, "list")["release"]["paused"] == false })
	redistest.Eventually(t, 30*time.Second, "all locks are released", func() bool {
		left := 0
		for i := range stale {
			left += len(sim.Locks(fmt.Sprintf("user-%d", i)))
		}
		return left == 0
	})
	redistest.Eventually(t, 10*time.Second, "the log says it", func() bool {
		return strings.Contains(p.log(), "the queue is paused") && strings.Contains(p.log(), "the queue is not paused any more")
	})
	if code := p.end(t, syscall.SIGTERM); code != exitDone {
		t.Errorf("exit %d; want exit 0", code)
	}
}
