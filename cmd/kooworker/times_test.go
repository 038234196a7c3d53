package main

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

func TestParseDuration(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "1.5h": 90 * time.Minute, "1h30m": 90 * time.Minute, "0": 0, "-5s": -5 * time.Second,
		"30d": 30 * day, "2w": 14 * day, "1w2d3h": 9*day + 3*time.Hour, "1d12h": 36 * time.Hour, "720h": 30 * day,
	} {
		if got, err := parseDuration(text); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "d", "5", "1 d", "30 days", "1d1w", "-1d", "400y", "99999999999999999999d"} {
		got, err := parseDuration(text)
		if err == nil || !strings.Contains(err.Error(), "want for example 90s, 1h30m, 30d or 2w") {
			t.Errorf("%q: %v, %v; want an error that says what would be right", text, got, err)
		}
	}
}

func TestParseInstant(t *testing.T) {
	t.Parallel()
	want := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	for _, text := range []string{"2026-12-01T00:00:00Z", "2026-12-01T08:00:00+08:00"} {
		if got, err := parseInstant(text); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "2026-12-01", "2026-12-01 00:00:00", "2026-12-01T00:00:00", "tomorrow", "2026-13-01T00:00:00Z"} {
		if got, err := parseInstant(text); err == nil || !strings.Contains(err.Error(), "want for example 2026-12-01T00:00:00Z") {
			t.Errorf("%q: %v, %v; want an error that says what would be right", text, got, err)
		}
	}
}

// Nothing of an order for a time runs before it, and everything does after, though the
// worker and Redis are restarted meanwhile.
func TestEnqueue_At(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	sim, url := startSimulator(t)
	for i := range 26 {
		sim.Bind(fmt.Sprint("user-", i/3), simulator.Device{DeviceID: fmt.Sprint("device-", i)})
	}
	w := startWorker(t, server, url)
	at := time.Now().Add(10 * time.Second).Truncate(time.Second)
	redis := []string{"--redis-url", server.URL(), "--at", at.Format(time.RFC3339)}
	runs := "; it runs from " + at.UTC().Format(time.RFC3339) + " on\n"

	unbind := append([]string{"enqueue", "unbind", "--user-id", "user-8", "--device-id", "device-25"}, redis...)
	if r := kooworker(t, "", unbind...); r.code != exitDone || !strings.HasPrefix(r.stdout, "enqueued ") || !strings.HasSuffix(r.stdout, runs) {
		t.Errorf("%+v; want %q at the end", r, runs)
	}
	if r := kooworker(t, "", unbind...); r.code != exitDone || !strings.HasPrefix(r.stdout, "duplicate: ") || !strings.HasSuffix(r.stdout, runs) {
		t.Errorf("again: %+v; want %q at the end", r, runs)
	}
	if r := kooworker(t, "", append(unbind, "--json")...); r.object(t)["run_at"] != at.UTC().Format(time.RFC3339) {
		t.Errorf("as JSON: %+v; want the time in run_at", r)
	}
	r := kooworker(t, unbindsCSV(25), append([]string{"enqueue", "unbind", "--file", "-", "--batch", "b"}, redis...)...)
	if want := "; they run from " + at.UTC().Format(time.RFC3339) + " on\n"; r.code != exitDone || !strings.HasSuffix(r.stdout, want) {
		t.Errorf("a file: %+v; want %q at the end", r, want)
	}

	w.end(t, syscall.SIGTERM)
	server.Kill()
	server.Restart()
	startWorker(t, server, url)
	for sim.Stats().Unbound == 0 && time.Since(at) < 20*time.Second {
		time.Sleep(5 * time.Millisecond) //nolint:forbidigo // the moment of the first call counts
	}
	if early := time.Until(at); early > 0 {
		t.Errorf("%d devices are unbound %v before the time; want none", sim.Stats().Unbound, early)
	}
	redistest.Eventually(t, 20*time.Second, "all devices are unbound", func() bool { return sim.Stats().Unbound == 26 })
	redistest.Eventually(t, 5*time.Second, "the batch is done", func() bool { return show(t, server, "b")["done"] == true })
}

// A task that must not run after a time is dead if it has passed.
func TestEnqueue_NotAfter(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sim, url := startSimulator(t)
	sim.Bind("u", simulator.Device{DeviceID: "d"})
	limit := time.Now().Add(4 * time.Second).Truncate(time.Second)
	args := []string{"enqueue", "unbind", "--user-id", "u", "--device-id", "d", "--redis-url", server.URL(), "--not-after", limit.Format(time.RFC3339)}
	if r := kooworker(t, "", args...); r.code != exitDone {
		t.Fatalf("%+v; want exit code 0", r)
	}
	for problem, more := range map[string][]string{
		"--in and --at: want one of them": {"--in", "1h", "--at", "2026-12-01T00:00:00Z"},
		"want a time after":               {"--in", "1h"},
	} {
		if r := kooworker(t, "", append(args, more...)...); r.code != exitUsage || !strings.Contains(r.stderr, problem) {
			t.Errorf("%+v; want exit code 2 and %q", r, problem)
		}
	}
	time.Sleep(time.Until(limit) + 100*time.Millisecond) //nolint:forbidigo // it is the time that must pass
	w := startWorker(t, server, url)
	redistest.Eventually(t, 20*time.Second, "the task is dead", func() bool { return strings.Contains(w.log(), `"reason":"expired"`) })
	if n := sim.Stats().Unbound; n != 0 {
		t.Errorf("%d devices are unbound; want none", n)
	}
}

// A flag that is a duration takes weeks and days, and says what would be right.
func TestEnqueue_InWeeks(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	args := []string{"enqueue", "unbind", "--user-id", "u", "--device-id", "d", "--redis-url", r.URL(), "--in"}
	if got := kooworker(t, "", append(args, "1w2d")...); got.code != exitDone {
		t.Fatalf("%+v; want exit code 0", got)
	}
	score := r.Client().ZRangeWithScores(t.Context(), "asynq:{unbind}:scheduled", 0, -1).Val()
	if len(score) != 1 {
		t.Fatalf("%d tasks are scheduled; want 1", len(score))
	}
	if left := time.Until(time.Unix(int64(score[0].Score), 0)); (left - 9*24*time.Hour).Abs() > time.Minute {
		t.Errorf("it runs in %v; want nine days", left)
	}
	got := kooworker(t, "", append(args, "3 days")...)
	if got.code != exitUsage || !strings.Contains(got.stderr, `--in: "3 days" is not a duration; want for example 90s, 1h30m, 30d or 2w`) {
		t.Errorf("%+v; want exit code 2, and what would be right", got)
	}
}

// A file may give each line a time of its own, and the summary says when they run.
func TestEnqueueFile_RunAt(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for format, input := range map[string]string{
		"csv":   "user_id,device_id,run_at\nu,d1,2099-12-01T00:00:00Z\nu,d2,2099-12-03T01:00:00+01:00\nu,d3,\n",
		"jsonl": `{"user_id":"u","device_id":"d4","run_at":"2099-12-01T00:00:00Z"}` + "\n" + `{"user_id":"u","device_id":"d5","run_at":"2099-12-03T00:00:00Z"}` + "\n" + `{"user_id":"u","device_id":"d6"}` + "\n",
	} {
		args := []string{"enqueue", "unbind", "--file", "-", "--format", format, "--batch", format, "--redis-url", server.URL()}
		r := kooworker(t, input, args...)
		if r.code != exitDone || !strings.Contains(r.stdout, "; 2 of them wait for their time, from 2099-12-01T00:00:00Z to 2099-12-03T00:00:00Z\n") {
			t.Errorf("%s: %+v; want it to say when they run", format, r)
		}
		if r := kooworker(t, input, append(args, "--json")...); r.code != exitDone || r.object(t)["skipped"] != 3.0 {
			t.Errorf("%s: %+v; want all skipped", format, r)
		}
	}
}

// Who looks at a batch whose tasks all wait for their time is told so, and no rate.
func TestBatch_SaysThatNothingIsDue(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	_, url := startSimulator(t)
	startWorker(t, server, url)
	file := "user_id,device_id,run_at\nu,d1,2099-12-01T00:00:00Z\nu,d2,2099-12-03T00:00:00Z\n"
	if r := kooworker(t, file, "enqueue", "unbind", "--file", "-", "--batch", "b", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	const want = "none of its tasks is due before 2099-12-01T00:00:00Z"
	redistest.Eventually(t, 20*time.Second, "batch show says it", func() bool { // as soon as the worker has reported
		return strings.Contains(kooworker(t, "", "batch", "show", "b", "--redis-url", server.URL()).stdout, want)
	})
	r := kooworker(t, "", "batch", "wait", "b", "--timeout", "4s", "--redis-url", server.URL())
	if r.code != exitTimeout || !strings.Contains(r.stderr, want) || !strings.Contains(r.stderr, "kooworker batch cancel b") {
		t.Errorf("%+v; want exit 3 with %q", r, want)
	}
}
