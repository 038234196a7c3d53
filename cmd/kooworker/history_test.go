package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// historyOf returns the lines of kooworker history: source, kind, target, outcome and batch.
func historyOf(t *testing.T, server *redistest.Server, args ...string) (lines []string) {
	t.Helper()
	r := kooworker(t, "", append([]string{"history", "--json", "--redis-url", server.URL()}, args...)...)
	if r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	var last time.Time
	for _, l := range r.lines(t) {
		at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(l["at"]))
		if err != nil || at.Before(last) {
			t.Errorf("%v is after %s; want the oldest first", l, last)
		}
		last = at
		lines = append(lines, strings.TrimSpace(fmt.Sprintln(l["source"], l["kind"], l["target"], l["outcome"], l["batch"])))
	}
	return lines
}

// settled waits until nothing waits and nothing runs.
func settled(t *testing.T, server *redistest.Server) {
	t.Helper()
	inspector := asynq.NewInspectorFromRedisClient(server.Client())
	calm := 0
	redistest.Eventually(t, time.Minute, "every task has an outcome", func() bool {
		calm++
		for queue := range tasks.QueueWeights() {
			info, err := inspector.GetQueueInfo(queue)
			if err == nil && info.Pending+info.Active+info.Scheduled > 0 || err == nil && info.Retry > 0 && queue != tasks.QueueDeadLetter {
				calm = 0
			}
		}
		return calm > 5
	})
}

func TestHistory(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sim, url := startSimulator(t, "forbidden,call=unbind,target=dead-1")
	for _, id := range []string{"single-1", "dead-1", "b1-0", "b2-0", "found-1"} {
		sim.Bind("me", simulator.Device{DeviceID: id})
	}
	sim.AddLock("me", "swept@102", time.Now().Add(time.Hour))
	startWorker(t, server, url)
	do := func(stdin string, args ...string) {
		t.Helper()
		if r := kooworker(t, stdin, append(args, "--redis-url", server.URL())...); r.code != exitDone {
			t.Fatalf("%v: %+v; want exit 0", args, r)
		}
		settled(t, server)
	}
	for i := range 3 {
		csv := "user_id,device_id\n"
		for j := range 300 {
			csv += fmt.Sprintf("other-%d,x-%d\n", j, j)
		}
		do(csv+fmt.Sprintf("me,b%d-0\n", i+1), "enqueue", "unbind", "--file", "-", "--batch", fmt.Sprint("b-", i+1))
	}
	do("", "enqueue", "unbind", "--user-id", "me", "--device-id", "single-1")
	do("", "enqueue", "unbind", "--user-id", "me", "--device-id", "dead-1")
	// A letter that is no task names the user. It has no receipt.
	letter := deadletter.Letter{ID: "broken", Kind: tasks.KindDeviceUnbind, Payload: []byte(`{"v":9,"user_id":"me"}`), Reason: tasks.Undecodable, DeadAt: time.Now(), UserID: "me"}
	if err := deadletter.NewStore(server.Client()).Park(t.Context(), letter); err != nil {
		t.Fatal(err)
	}
	died := []string{
		"batch device:unbind b1-0 succeeded b-1", "batch device:unbind b2-0 succeeded b-2", "batch device:unbind b3-0 already_gone b-3",
		"single device:unbind single-1 succeeded", "single device:unbind dead-1 dead", "dead-letter device:unbind  dead",
	}
	if diff := cmp.Diff(died, historyOf(t, server, "--user-id", "me")); diff != "" {
		t.Errorf("before the replay (-want +got):\n%s", diff)
	}
	sim.ClearFaults()
	do("", "dead", "replay", "--user-id", "me", "--reason", "forbidden")
	do("user_id,lock_id\nme,swept@102\n", "locks", "track", "--file", "-", "--expires-in", "1ms")
	do("", "locks", "sweep", "--grace", "1ms", "--max-share", "1")
	do("", "enqueue", "offboard", "--user-id", "me")
	sim.Bind("me", simulator.Device{DeviceID: "found-2"})
	do("user_id\nme\n", "enqueue", "offboard", "--file", "-", "--batch", "b-4")
	do("", "dead", "discard", "--user-id", "me", "--yes")

	got := historyOf(t, server, "--user-id", "me")
	sweep := ""
	for i, line := range got {
		if fields := strings.Fields(line); fields[0] == "sweep" {
			sweep = fields[4]
			got[i] = strings.Replace(line, sweep, "sweep-ID", 1)
		}
	}
	want := slices.Concat(died[:5], []string{
		"dead-letter device:unbind dead-1 succeeded",
		"sweep lock:release swept@102 succeeded sweep-ID",
		"offboarding device:unbind found-1 succeeded", "offboarding user:offboard  succeeded",
		"offboarding device:unbind found-2 succeeded b-4", "offboarding user:offboard  succeeded b-4",
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, args := range [][]string{{"--device-id", "dead-1"}, {"--lock-id", "swept@102"}, {"--device-id", "none"}} {
		only := historyOf(t, server, append(args, "--user-id", "me")...)
		if want := map[string]int{"dead-1": 2, "swept@102": 1, "none": 0}[args[1]]; len(only) != want {
			t.Errorf("%v: %q; want %d lines", args, only, want)
		}
	}
	if r := kooworker(t, "", "history", "--user-id", "nobody", "--redis-url", server.URL()); r.code != exitDone || r.stdout != "Nothing is known of this user.\n" {
		t.Errorf("%+v; want nothing of a stranger", r)
	}
	if r := kooworker(t, "", "history", "--redis-url", server.URL()); r.code != exitUsage {
		t.Errorf("%+v; want exit 2 without a user", r)
	}
	testForget(t, server, sweep)
}

// testForget forgets the user of TestHistory.
func testForget(t *testing.T, server *redistest.Server, sweep string) {
	t.Helper()
	forget := []string{"history", "forget", "--user-id", "me", "--json", "--redis-url", server.URL()}
	for _, want := range []float64{11, 0} {
		r := kooworker(t, "", forget...)
		if r.code != exitDone || r.object(t)["forgotten"] != want {
			t.Errorf("%+v; want exit 0, and %v forgotten", r, want)
		}
		if !strings.Contains(r.stderr, `"msg":"history of a user forgotten"`) || strings.Contains(r.stderr, `"me"`) {
			t.Errorf("stderr: %s; want a line that says so, without the user", r.stderr)
		}
	}
	if got := historyOf(t, server, "--user-id", "me"); got != nil {
		t.Errorf("%q; want nothing", got)
	}
	if got := historyOf(t, server, "--user-id", "other-7"); len(got) != 3 {
		t.Errorf("%q; want the other user's three", got)
	}
	for _, id := range []string{"b-1", "b-4", sweep} {
		if r := kooworker(t, "", "batch", "audit", id, "--redis-url", server.URL()); r.code != exitDone {
			t.Errorf("%s: %+v; want a clean audit", id, r)
		}
	}
}

// While something of the user is outstanding or dead, nothing is forgotten.
func TestHistoryForget_Refuses(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	_, url := startSimulator(t, "forbidden,call=unbind,target=dead-1")
	forget := []string{"history", "forget", "--user-id", "me", "--redis-url", server.URL()}
	for _, id := range []string{"dead-1", "d-2"} {
		kooworker(t, "", "enqueue", "unbind", "--user-id", "me", "--device-id", id, "--redis-url", server.URL())
	}
	if r := kooworker(t, "", forget...); r.code != exitFailed || !strings.Contains(r.stderr, "2 are outstanding and 0 dead") {
		t.Errorf("%+v; want exit 1, since two are outstanding", r)
	}
	startWorker(t, server, url)
	settled(t, server)
	if r := kooworker(t, "", forget...); r.code != exitFailed || !strings.Contains(r.stderr, "0 are outstanding and 1 dead") {
		t.Errorf("%+v; want exit 1, since one is dead", r)
	}
	if got := historyOf(t, server, "--user-id", "me"); len(got) != 2 {
		t.Errorf("%q; want both receipts", got)
	}
	kooworker(t, "", "dead", "discard", "--user-id", "me", "--yes", "--redis-url", server.URL())
	if r := kooworker(t, "", forget...); r.code != exitDone || r.stdout != "3 receipts forgotten\n" {
		t.Errorf("%+v; want exit 0, and three receipts forgotten", r)
	}
}
