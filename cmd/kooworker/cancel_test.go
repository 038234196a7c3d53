package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/internal/redistest"
)

// Single orders are cancelled wherever they wait; those of a batch are not.
func TestCancel_SingleOrders(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	run := func(args ...string) result {
		t.Helper()
		return kooworker(t, "", append(args, "--redis-url", server.URL())...)
	}
	for _, args := range [][]string{
		{"unbind", "--user-id", "u", "--device-id", "d1"},
		{"unbind", "--user-id", "u", "--device-id", "d2", "--in", "1h"},
		{"unbind", "--user-id", "u:d1", "--device-id", "d1", "--urgent"}, // its ID begins with that of the first
		{"release", "--user-id", "u", "--lock-id", "l1"},
		{"release", "--user-id", "v", "--lock-id", "l1"},
		{"offboard", "--user-id", "u"},
		{"unbind", "--user-id", "u", "--device-id", "d1", "--wait", "--wait-timeout", "1s", "--batch", "b-1"},
	} {
		if r := run(append([]string{"enqueue"}, args...)...); r.code != exitDone && r.code != exitTimeout {
			t.Fatalf("%v: %+v; want exit 0", args, r)
		}
	}
	if r := kooworker(t, unbindsCSV(30), "enqueue", "unbind", "--file", "-", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	for _, tc := range []struct {
		args []string
		want float64
	}{
		{[]string{"--id", "device:unbind:nobody:d1"}, 0},
		{[]string{"--id", "device:unbind:u:d1"}, 1},
		{[]string{"--user-id", "u", "--kind", "lock:release"}, 1},
		{[]string{"--lock-id", "l1"}, 1},
		{[]string{"--user-id", "u"}, 2},
		{[]string{"--device-id", "device-7"}, 1},
		{[]string{"--user-id", "user-1"}, 3},
		{[]string{"--all"}, 27},
		{[]string{"--all"}, 0},
	} {
		dry := run(append([]string{"cancel", "--dry-run", "--json"}, tc.args...)...).object(t)
		if diff := cmp.Diff(map[string]any{"matched": tc.want, "cancelled": 0.0, "in_flight": 0.0}, dry); diff != "" {
			t.Errorf("%v, dry run (-want +got):\n%s", tc.args, diff)
		}
		r := run(append([]string{"cancel", "--json"}, tc.args...)...)
		if diff := cmp.Diff(map[string]any{"matched": tc.want, "cancelled": tc.want, "in_flight": 0.0}, r.object(t)); diff != "" || r.code != exitDone {
			t.Errorf("%v: exit %d (-want +got):\n%s", tc.args, r.code, diff)
		}
	}
	if state := counts(show(t, server, "b-1")); state["queued"] != 1 {
		t.Errorf("%v; want the task of the batch queued", state)
	}
	for _, args := range [][]string{{}, {"--all", "--user-id", "u"}, {"--kind", "lock:sweep"}, {"--device-id", "d", "--lock-id", "l"}} {
		if r := run(append([]string{"cancel"}, args...)...); r.code != exitUsage {
			t.Errorf("%v: %+v; want exit 2", args, r)
		}
	}
}

// An order in flight whose call fails is cancelled then. One whose call takes long is named.
func TestCancel_InFlight(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	_, url := startSimulator(t, "rejected,delay=1s,target=fails", "slow,delay=20s,target=slow")
	startWorker(t, server, url)
	for _, device := range []string{"fails", "slow"} {
		if r := kooworker(t, "", "enqueue", "unbind", "--user-id", "u", "--device-id", device, "--redis-url", server.URL()); r.code != exitDone {
			t.Fatalf("%+v; want exit 0", r)
		}
	}
	inFlight := func() float64 {
		n, _ := kooworker(t, "", "cancel", "--user-id", "u", "--dry-run", "--json", "--redis-url", server.URL()).object(t)["in_flight"].(float64)
		return n
	}
	redistest.Eventually(t, 20*time.Second, "both are in flight", func() bool { return inFlight() == 2 })
	r := kooworker(t, "", "cancel", "--user-id", "u", "--redis-url", server.URL())
	if r.code != exitDone || !strings.Contains(r.stdout, "1 order cancelled; 1 in flight") {
		t.Errorf("%+v; want one cancelled, and one in flight", r)
	}
	events := kooworker(t, "", "history", "--user-id", "u", "--json", "--redis-url", server.URL()).lines(t)
	events = slices.DeleteFunc(events, func(e map[string]any) bool { return e["target"] == "slow" && e["outcome"] == "already_gone" }) // its call may have ended
	if len(events) != 1 || events[0]["outcome"] != "cancelled" || events[0]["source"] != "single" || events[0]["target"] != "fails" {
		t.Errorf("%v; want the one that was cancelled", events)
	}
}
