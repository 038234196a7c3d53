package main

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kooworker/kooworker/internal/redistest"
)

// Nothing of a batch runs while it is held, over a restart of the worker and of Redis, and
// with a producer that goes on. Then everything runs.
func TestBatchHold_OverRestarts(t *testing.T) {
	t.Parallel()
	const n = 600
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	api := newFakeAPI(t, 5*time.Millisecond)
	run := func(input string, args ...string) result {
		t.Helper()
		r := kooworker(t, input, append(args, "--redis-url", server.URL())...)
		if r.code != exitDone {
			t.Fatalf("%v: %+v; want exit 0", args, r)
		}
		return r
	}
	worker := startWorker(t, server, api.URL, "--concurrency", "8")
	run(unbindsCSV(n), "enqueue", "unbind", "--file", "-", "--batch", "b-1")
	redistest.Eventually(t, 20*time.Second, "some are done", func() bool { done, _ := api.executed(); return done > 20 })
	run("", "batch", "hold", "b-1", "--reason", "legal hold")
	done, _ := api.executed()
	if done >= n {
		t.Fatal("all were done before the hold; want some left")
	}
	run("user_id,device_id\nfree,other\n", "enqueue", "unbind", "--file", "-", "--batch", "free", "--wait")
	if code := worker.end(t, syscall.SIGTERM); code != exitDone {
		t.Fatalf("the worker ended with %d; want 0", code)
	}
	server.Kill()
	server.Restart()
	startWorker(t, server, api.URL, "--concurrency", "8")
	<-time.After(3 * time.Second) // in which a worker would go on
	if later, _ := api.executed(); later != done+1 {
		t.Errorf("%d were done while it was held; want %d, and the one of another batch", later-done, 1)
	}
	if r := run("", "batch", "show", "b-1"); !strings.Contains(r.stdout, "legal hold") || strings.Contains(r.stdout, "time left") {
		t.Errorf("%s; want it to say that it is held, and not how long the rest takes", r.stdout)
	}
	held, _ := run("", "batch", "show", "b-1", "--json").object(t)["held"].(map[string]any)
	if held["reason"] != "legal hold" || held["by"] == "" {
		t.Errorf("held %v; want who and why", held)
	}
	if code, missing, text := auditB1(t, server); code != exitDone || missing != 0 {
		t.Errorf("audit: exit %d, %g missing, %s; want it clean", code, missing, text)
	}
	run("", "batch", "release", "b-1")
	run("", "batch", "wait", "b-1", "--timeout", "1m")
	if later, twice := api.executed(); later != n+1 || len(twice) > 0 {
		t.Errorf("%d were done, %d of them twice; want %d, each once", later, len(twice), n+1)
	}
	run("", "batch", "release", "b-1") // it is not held
}

// A hold until a time ends by itself, and can be made longer, not shorter.
func TestBatchHold_Until(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	api := newFakeAPI(t, 0)
	hold := func(until time.Time) result {
		t.Helper()
		return kooworker(t, "", "batch", "hold", "b-1", "--json", "--until", until.UTC().Format(time.RFC3339), "--redis-url", server.URL())
	}
	if r := hold(time.Now().Add(-time.Hour)); r.code != exitUsage || !strings.Contains(r.stderr, "has passed") {
		t.Errorf("%+v; want exit 2", r)
	}
	if r := kooworker(t, unbindsCSV(50), "enqueue", "unbind", "--file", "-", "--batch", "b-1", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	if r := hold(time.Now().Add(5 * time.Second)); r.code != exitDone || r.object(t)["held"] != 50.0 {
		t.Fatalf("%+v; want exit 0 and 50 held", r)
	}
	end := time.Now().Add(8 * time.Second).Truncate(time.Second)
	if r := hold(end); r.code != exitDone || r.object(t)["held"] != 50.0 {
		t.Fatalf("longer: %+v; want exit 0 and 50 held", r)
	}
	if r := hold(end.Add(-2 * time.Second)); r.code != exitUsage || !strings.Contains(r.stderr, "batch release b-1") {
		t.Errorf("shorter: %+v; want exit 2, and the command that releases it", r)
	}
	startWorker(t, server, api.URL)
	if r := kooworker(t, "", "batch", "wait", "b-1", "--timeout", "1m", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	if early := time.Until(end); early > 0 {
		t.Errorf("it was done %s before the hold ended", early)
	}
	if done, _ := api.executed(); done != 50 {
		t.Errorf("%d were done; want 50", done)
	}
	if r := kooworker(t, "", "batch", "hold", "never", "--redis-url", server.URL()); r.code != exitFailed || !strings.Contains(r.stderr, "there is no batch") {
		t.Errorf("%+v; want exit 1 and 'there is no batch'", r)
	}
}
