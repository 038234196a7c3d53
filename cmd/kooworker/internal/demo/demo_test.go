package demo

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

func TestMain(m *testing.M) {
	// go-redis keeps dialling for a second after its client was closed.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

func TestRun_OnARedisServer(t *testing.T) {
	t.Parallel()
	countsAgree(t, "redis-server")
}

// Not parallel: the process has one PATH.
func TestRun_OnMiniredis(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	countsAgree(t, "miniredis")
}

// countsAgree runs a demo and compares its report and its output with the script.
func countsAgree(t *testing.T, redis string) {
	t.Helper()
	var out bytes.Buffer
	start := time.Now()
	report, err := Run(t.Context(), Options{Tasks: 240, Out: &out})
	if err != nil {
		t.Fatalf("%v; want no error:\n%s", err, out.String())
	}
	want := Report{
		Enqueued: map[tasks.Kind]int{tasks.KindDeviceUnbind: 200, tasks.KindLockRelease: 40},
		Finished: map[Result]int{},
	}
	for kind, n := range want.Enqueued {
		for i := range n {
			want.Finished[expected(kind, scenarioOf(i))]++
		}
	}
	if diff := cmp.Diff(want, report); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	// The quota and the retries of the flaky tasks take ten seconds or so.
	if took := time.Since(start); took > time.Minute {
		t.Errorf("took %s; want less than 1m:\n%s", took, out.String())
	}
	for _, want := range []string{
		redis, "allows 200 calls a second", "240 of 240 done", "sum                           200        40    240", "enqueued                      200        40    240", "forbidden: HTTP 403",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output has no %q:\n%s", want, out.String())
		}
	}
}

// expected is the result of a task that plays a scenario.
func expected(kind tasks.Kind, s scenario) Result {
	switch s {
	case gone:
		return Result{kind, tasks.AlreadyGone, false}
	case flaky:
		return Result{kind, tasks.Succeeded, true}
	case forbidden:
		return Result{kind, tasks.Dead, false}
	default:
		return Result{kind, tasks.Succeeded, false}
	}
}

func TestRun_StaysUntilTheContextEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out redistest.Buffer
	done := make(chan error, 1)
	go func() {
		_, err := Run(ctx, Options{Tasks: 60, Stay: true, Out: &out})
		done <- err
	}()
	redistest.Eventually(t, time.Minute, "the dashboard is up", func() bool { return strings.Contains(out.String(), "Dashboard  http://127.0.0.1:") })
	select {
	case err := <-done:
		t.Errorf("it ended, %v; want it to stay", err)
	default:
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%v; want no error", err)
		}
	}
}

func TestRun_Interrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := Run(ctx, Options{Tasks: 1200, Out: io.Discard}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v; want %v", err, context.DeadlineExceeded)
	}
}

func TestOptions_WrongNumberOfTasks(t *testing.T) {
	t.Parallel()
	for _, n := range []int{-1, 0, 59, 1_000_001} {
		if err := (Options{Tasks: n}).Validate(); err == nil || !strings.Contains(err.Error(), "want 60 to 1000000") {
			t.Errorf("%d tasks: %v; want an error that says how many are right", n, err)
		}
	}
}
