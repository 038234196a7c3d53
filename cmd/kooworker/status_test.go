package main

import (
	"bytes"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/internal/pauses"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/fleet"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
	"github.com/kooworker/kooworker/worker/overview"
	"github.com/kooworker/kooworker/worker/redischeck"
)

// The first lines name the cause and the next step.
func TestStatus_NamesTheCause(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		faults      []string
		quota       string
		noWorker    bool
		act         func(t *testing.T, server *redistest.Server)
		cause, hint string
		ok          bool
		code        int
	}{
		"no worker":          {noWorker: true, cause: "no worker runs, and 2000 tasks wait", hint: "kooworker worker"},
		"credential refused": {faults: []string{"unauthorized"}, cause: "KooDrive refuses the credential: calls of kind unbind stop, since", hint: "kooworker doctor"},
		"API down":           {faults: []string{"upstream-500"}, cause: "KooDrive fails: calls of kind unbind stop, since", hint: "calls resume by themselves"},
		"API throttles":      {quota: "bucket:20/s,burst=5", cause: "KooDrive", hint: "quota", ok: true},
		"quota is used up":   {quota: "fixed:20/h", cause: "quota is used up: calls of kind unbind stop", hint: "have the quota raised"},
		"queue is paused": {act: pauseUnbinds,
			cause: "queue unbind is paused by", hint: "kooworker queue resume unbind"},
		"dead letters": {act: parkThree, cause: "3 dead letters: 1 forbidden, 1 invalid, 1 rejected", hint: "kooworker dead replay --reason forbidden"},
		"Redis is down": {act: kill,
			cause: "Redis does not answer: ", hint: "redis-cli PING", code: exitFailed},
		"Redis is full": {act: func(t *testing.T, server *redistest.Server) { t.Helper(); setMaxMemory(t, server, "1") },
			cause: "Redis refuses to serve: OOM", hint: "Redis is full"},
		"Redis hangs": {act: freeze,
			cause: "Redis does not answer: no answer within 2s", hint: "redis-cli PING", code: exitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, "--appendonly", "yes")
			cfg := simulator.Config{Auth: simulator.Auth{Mode: simulator.AuthToken, Token: "t0ken"}}
			for _, text := range tc.faults {
				fault, err := simulator.ParseFault(text)
				if err != nil {
					t.Fatal(err)
				}
				cfg.Faults = append(cfg.Faults, fault)
			}
			if tc.quota != "" {
				q, err := simulator.ParseQuota(tc.quota)
				if err != nil {
					t.Fatal(err)
				}
				cfg.Quotas = []simulator.Quota{q}
			}
			_, url := serveSimulator(t, cfg)
			if !tc.noWorker {
				startWorker(t, server, url)
			}
			if tc.act != nil {
				tc.act(t, server)
			}
			if len(tc.faults) > 0 || tc.quota != "" || tc.noWorker {
				if r := kooworker(t, unbindsOfManyUsers(2000), "enqueue", "unbind", "--file", "-", "--redis-url", server.URL()); r.code != exitDone {
					t.Fatalf("%+v; want exit 0", r)
				}
			}
			var r result
			redistest.Eventually(t, 60*time.Second, "status names the cause "+tc.cause, func() bool {
				r = kooworker(t, "", "status", "--json", "--redis-url", server.URL())
				s := r.object(t)
				return strings.Contains(s["cause"].(string), tc.cause) && strings.Contains(s["hint"].(string), tc.hint) && s["ok"] == tc.ok && r.code == tc.code
			})
			r = kooworker(t, "", "status", "--redis-url", server.URL())
			lines := strings.Split(r.stdout, "\n")
			first := strings.Join(lines[:min(len(lines), 6)], "\n")
			if r.code != tc.code || !strings.HasPrefix(first, "status  "+map[bool]string{true: "ok\n", false: "NOT OK\n"}[tc.ok]) || !strings.Contains(first, "\ncause   ") || !strings.Contains(first, "\nhint    ") {
				t.Errorf("%+v; want the status, the cause and the hint in the first lines", r)
			}
		})
	}
}

// unbindsOfManyUsers is a file: an outage is noticed by several users.
func unbindsOfManyUsers(n int) string {
	lines := "user_id,device_id\n"
	for i := range n {
		lines += fmt.Sprintf("user-%d,device-%d\n", i, i)
	}
	return lines
}

func pauseUnbinds(t *testing.T, server *redistest.Server) {
	t.Helper()
	queues(t, server, "pause", "unbind", "--reason", "INC-1")
}

func freeze(t *testing.T, server *redistest.Server) {
	t.Helper()
	server.Freeze()
	t.Cleanup(server.Thaw)
}

func kill(t *testing.T, server *redistest.Server) {
	t.Helper()
	server.Kill()
}

// parkThree parks dead letters of three reasons.
func parkThree(t *testing.T, server *redistest.Server) {
	t.Helper()
	for i, reason := range []tasks.Reason{tasks.Forbidden, tasks.Invalid, tasks.Rejected} {
		unbind := tasks.DeviceUnbind{UserID: "u", DeviceID: fmt.Sprint("d-", i)}
		letter := deadletter.Letter{ID: tasks.Identity(unbind), Kind: unbind.Kind(), UserID: "u", Target: unbind.DeviceID, Reason: reason, Error: string(reason), Attempts: 1, DeadAt: time.Now()}
		if err := deadletter.NewStore(server.Client()).Park(t.Context(), letter); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStatus_AllIsWell(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes")
	_, url := startSimulator(t)
	startWorker(t, server, url)
	redistest.Eventually(t, 20*time.Second, "nothing stands in the way", func() bool {
		r := kooworker(t, "", "status", "--redis-url", server.URL())
		return r.code == exitDone && strings.HasPrefix(r.stdout, "status  ok: nothing waits\n") && strings.Contains(r.stdout, "\nworkers        1 alive")
	})
	if r := kooworker(t, "", "status", "--every", "10ms", "--redis-url", server.URL()); r.code != exitUsage {
		t.Errorf("%+v; want exit 2", r)
	}
	watch := startProcess(t, nil, "status", "--watch", "--json", "--every", "1s", "--redis-url", server.URL())
	<-time.After(1500 * time.Millisecond)
	if code := watch.end(t, syscall.SIGINT); code != exitDone {
		t.Errorf("status --watch ended with %d after SIGINT; want 0\n%s", code, watch.log())
	}
}

// Everything that the screen can show, at every width.
func TestTables_GoldenStatus(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 22, 14, 5, 31, 0, time.Local)
	v := overview.Overview{
		At: at,
		Workers: overview.Workers{Live: 3, List: []fleet.Report{
			{Host: "a", PID: 1, Version: "v1.2.0", InFlight: 4}, {Host: "b", PID: 2, Version: "v1.3.0", Problem: "the clock: 9s ahead of Redis' clock; want at most 5s"}, {Host: "c", PID: 3, Version: "v1.3.0"},
		}},
		Gate: overview.Gate{Stopped: []overview.Stopped{
			{Stopped: fleet.Stopped{Call: gate.Unbind, Reason: tasks.Unauthorized, Since: at}, Workers: 2},
			{Stopped: fleet.Stopped{Call: gate.Release, Reason: tasks.Throttled}, Workers: 3},
		}},
		Quota: overview.Quota{Calls: map[gate.Kind]overview.CallQuota{
			gate.Unbind: {Limit: 200, Used: 198, Refused: 1.5}, gate.Release: {Used: 3}, gate.List: {},
		}},
		Queues: []overview.Queue{
			{Name: tasks.QueueRelease, Lanes: 11}, {Name: tasks.QueueUnbind, Lanes: 11, Pending: 123456, Retry: 345, Active: 64, OldestSeconds: 4000, Paused: true, Pauses: []pauses.Group{
				{Queue: tasks.QueueUnbind, Lanes: tasks.LanesOf(tasks.QueueUnbind), Pause: pauses.Pause{By: "alice@ops-1", Since: at, Reason: "wrong export of the CRM"}},
			}}, {Name: tasks.QueueDeadLetter, Lanes: 1, Retry: 7},
		},
		Retries: map[tasks.Reason]int64{tasks.Upstream: 300, tasks.TimedOut: 45, "": 1},
		Dead:    deadletter.Counts{Total: 7, ByReason: map[tasks.Reason]int64{tasks.Forbidden: 5, tasks.Invalid: 2}},
		Batches: overview.Batches{Open: 12, Late: 1, List: []overview.Batch{
			{BatchStats: tasks.BatchStats{ID: "deletions-2026-11", Total: 200000, Queued: 123000, Dead: 7, DueBy: at}, Late: true, Rate: 198, LeftSeconds: 621},
			{BatchStats: tasks.BatchStats{ID: "0193541c-8f7a-7d3e-9c4b-000000000001", Total: 20, Queued: 20}, Held: &batch.Hold{Batch: "0193541c-8f7a-7d3e-9c4b-000000000001", By: "bob@ops-2", Reason: "legal hold 42"}},
		}},
		Locks:  overview.Locks{Total: 120, Stale: 12, Swept: 10, Sweeps: []locks.Sweep{{Source: tasks.SourceLedger, Began: at, Total: 120, Stale: 12, Enqueued: 10, HeldBack: 2, Why: "more than 10 locks"}}},
		Redis:  overview.Redis{Up: true, Seconds: 0.0004, Version: "7.0.15", UsedBytes: 1_540_000_000, MaxBytes: 4_000_000_000, Problems: []redischeck.Problem{{Name: redischeck.Persistence, Text: "nothing is persisted: a restart forgets every task", Hint: "set appendonly yes"}}},
		Unread: []string{"locks: WRONGTYPE Operation against a key holding the wrong kind of value"},
	}
	s := newStatus(v, nil)
	if s.OK || s.Cause == "" || s.Cause != s.Causes[0].Text {
		t.Errorf("the status is %t, %q; want that it is not ok, and the first cause", s.OK, s.Cause)
	}
	var got strings.Builder
	for _, width := range []int{40, 80, 100} {
		var screen bytes.Buffer
		s.write(&screen, width)
		addGolden(t, &got, width, screen.String())
	}
	compareGolden(t, "status", got.String())
}
