package main

import (
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/worker/doctor"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// notAsked are commands that a user has without a permission of its own, that only the start of a
// connection needs, that are for diagnosis only, or that only this test sends.
var notAsked = []string{"hello", "auth", "client", "select", "config", "slowlog", "quit", "command"}

// TestDoctor_KnowsTheCommands runs what kooworker does, and compares what Redis has seen with the
// commands whose permission the doctor asks for.
func TestDoctor_KnowsTheCommands(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes")
	sim, url := startSimulator(t, "forbidden,target=bad-*")
	for _, id := range []string{"d-1", "d-2", "d-3"} {
		sim.Bind("u", simulator.Device{DeviceID: id})
	}
	sim.AddLock("u", "l-1@102", time.Now().Add(time.Hour))
	p := startWorker(t, server, url, "--with-scheduler", "--sweep-every", "2s")
	do := func(stdin string, args ...string) {
		t.Helper()
		if r := kooworker(t, stdin, append(args, "--redis-url", server.URL())...); r.code != exitDone && r.code != exitPartial {
			t.Errorf("%v: %+v; want exit 0 or 3", args, r)
		}
	}
	do("", "enqueue", "unbind", "--user-id", "u", "--device-id", "d-1")
	do("", "enqueue", "unbind", "--user-id", "u", "--device-id", "bad-1")
	do("", "enqueue", "release", "--user-id", "u", "--lock-id", "l-1@102")
	do("", "enqueue", "unbind", "--user-id", "u", "--device-id", "d-later", "--in", "1h")
	do("", "cancel", "--user-id", "u")
	do("user_id,device_id\nu,d-2\nu,bad-2\n", "enqueue", "unbind", "--file", "-", "--batch", "b", "--wait")
	do("user_id\nu\n", "enqueue", "offboard", "--file", "-", "--batch", "o", "--wait")
	do("", "batch", "audit", "b")
	do("", "batch", "receipts", "b")
	do("", "batch", "list")
	do("", "history", "--user-id", "u")
	do("user_id,device_id\nu,d-9\n", "enqueue", "unbind", "--file", "-", "--batch", "held", "--in", "1h")
	do("", "batch", "hold", "held")
	do("", "batch", "release", "held")
	do("", "batch", "cancel", "held")
	do("", "batch", "delete", "held")
	do("", "locks", "track", "--user-id", "u", "--lock-id", "l-9@102", "--expires-in", "1s")
	do("", "locks", "list")
	do("", "locks", "forget", "--user-id", "u", "--lock-id", "l-9@102")
	do("", "queue", "pause", "unbind")
	do("", "queue", "list")
	do("", "queue", "resume", "unbind")
	redistest.Eventually(t, 30*time.Second, "the letters are parked", func() bool {
		r := kooworker(t, "", "dead", "stats", "--json", "--redis-url", server.URL())
		return r.code == exitDone && r.object(t)["total"] == 2.0
	})
	do("", "dead", "list")
	do("", "dead", "replay", "--all", "--dry-run")
	do("", "dead", "discard", "--all", "--yes")
	do("", "history", "forget", "--user-id", "u")
	do("", "doctor")
	if code := p.end(t, syscall.SIGTERM); code != exitDone {
		t.Errorf("SIGTERM: exit %d; want exit 0\n%s", code, p.log())
	}

	var unknown []string
	for _, match := range regexp.MustCompile(`cmdstat_([a-z]+)`).FindAllStringSubmatch(server.Client().Info(t.Context(), "commandstats").Val(), -1) {
		if name := match[1]; !slices.Contains(doctor.Commands(), name) && !slices.Contains(notAsked, name) && !slices.Contains(unknown, name) {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		t.Errorf("kooworker sends %s, whose permission the doctor does not ask for; want them in worker/doctor/permissions.go", strings.Join(unknown, ", "))
	}
}
