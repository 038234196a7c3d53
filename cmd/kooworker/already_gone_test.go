package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// KooDrive knows none of these ids, so that everything counts as done. The last line
// asks whether they are right.
func TestBatch_MostlyAlreadyGoneAsksWhetherTheIDsAreRight(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sim, url := startSimulator(t)
	for i := range 5 {
		sim.Bind(fmt.Sprint("user-", i/3), simulator.Device{DeviceID: fmt.Sprint("device-", i)})
	}
	w := startWorker(t, server, url)
	users := "user_id\n"
	for i := range 25 {
		users += fmt.Sprintf("unknown-%d\n", i)
	}
	const question = " tasks were already gone: are the ids right? KooDrive says the same of ids that it does not know\n"
	for _, tc := range []struct {
		name, stdin, args string
		want              string // the beginning of the last line; "" if there is none
	}{
		{"unbinds", unbindsCSV(25), "enqueue unbind --file - --wait --batch b-1", "20 of 25"},
		{"watch", "", "batch watch b-1", "20 of 25"},
		{"wait", "", "batch wait b-1", "20 of 25"},
		{"show", "", "batch show b-1", "20 of 25"},
		{"off-boardings", users, "enqueue offboard --file - --wait", "25 of 25"},
		{"few", unbindsCSV(10), "enqueue unbind --file - --wait", ""},
	} {
		args := append(strings.Fields(tc.args), "--redis-url", server.URL())
		r := kooworker(t, tc.stdin, args...)
		asks := strings.HasSuffix(r.stdout, "\n"+tc.want+question)
		if r.code != exitDone || asks != (tc.want != "") || strings.Contains(r.stdout+r.stderr, "are the ids right") != asks {
			t.Errorf("%s: %+v; want exit 0, and %q in the last line if it is not empty", tc.name, r, tc.want)
		}
		if strings.HasPrefix(tc.args, "enqueue") {
			continue // once more, it would be another batch
		}
		r = kooworker(t, "", append(args, "--json")...)
		if r.code != exitDone || r.object(t)["already_gone"] != 20.0 || !strings.HasSuffix(r.stderr, tc.want+question) {
			t.Errorf("%s --json: %+v; want exit 0, the counts on stdout and the question on stderr", tc.name, r)
		}
	}
	r := kooworker(t, unbindsCSV(25), "enqueue", "unbind", "--file", "-", "--wait", "--json", "--redis-url", server.URL())
	if r.code != exitDone || r.object(t)["enqueued"] != 25.0 || !strings.HasSuffix(r.stderr, "25 of 25"+question) {
		t.Errorf("enqueue --json: %+v; want exit 0, the summary on stdout and the question on stderr", r)
	}
	redistest.Eventually(t, 20*time.Second, "the worker's log asks, too", func() bool {
		return strings.Contains(w.log(), "most tasks of the batch were already gone: are the ids right?")
	})
}

// Above the share that the caller allows, ids that KooDrive does not know are no success.
func TestBatch_MaxAlreadyGone(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sim, url := startSimulator(t)
	for i := range 6 {
		sim.Bind(fmt.Sprint("user-", i/3), simulator.Device{DeviceID: fmt.Sprint("device-", i)})
	}
	startWorker(t, server, url)
	const question = "kooworker: 4 of 10 tasks were already gone, which is more than a share of "
	for _, tc := range []struct {
		args string
		code int
		want string // the beginning of the last line on stderr; "" if there is no such line
	}{
		{"enqueue unbind --file - --wait --batch b-1 --max-already-gone 0.3", exitPartial, question + "0.3: are the ids right?"},
		{"batch wait b-1", exitDone, ""},
		{"batch wait b-1 --max-already-gone 0.4", exitDone, ""},
		{"batch wait b-1 --max-already-gone 1", exitDone, ""},
		{"batch wait b-1 --max-already-gone 0.39", exitPartial, question + "0.39: are the ids right?"},
		{"batch wait b-1 --max-already-gone 0", exitPartial, question + "0: are the ids right?"},
	} {
		args := append(strings.Fields(tc.args), "--redis-url", server.URL())
		for _, asJSON := range []bool{false, true} {
			if asJSON {
				args = append(args, "--json")
			}
			r := kooworker(t, unbindsCSV(10), args...)
			asked := strings.HasPrefix(lastLine(r.stderr), tc.want) && (tc.want != "") == strings.Contains(r.stderr, "are the ids right")
			if r.code != tc.code || !asked || strings.Contains(r.stdout, "are the ids right") {
				t.Errorf("%s, JSON %t: %+v; want exit %d and %q on stderr", tc.args, asJSON, r, tc.code, tc.want)
			}
			if !asJSON {
				continue
			}
			stats := r.object(t)
			if balance, ok := stats["balance"].(map[string]any); ok {
				stats = balance
			}
			if stats["already_gone"] != 4.0 || stats["done"] != true {
				t.Errorf("%s: %+v; want the counts on stdout", tc.args, r)
			}
		}
	}
	r := kooworker(t, "", "batch", "wait", "no-such-batch", "--max-already-gone", "0.5", "--redis-url", server.URL())
	if r.code != exitFailed {
		t.Errorf("no such batch: %+v; want exit 1", r)
	}
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
