package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == asPlain {
		main() // as a plain asynq worker
		return
	}
	os.Exit(m.Run())
}

// buildKooworker builds the binary that is measured, as `make build` does.
func buildKooworker(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "kooworker")
	cmd := exec.Command("go", "build", "-trimpath", "-o", bin, "../../cmd/kooworker")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}

// All sections run with few tasks. Targets are missed then, which is no error.
func TestRun_Quick(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "bench.json")
	var stdout, stderr bytes.Buffer
	err := run(t.Context(), []string{"-quick", "-kooworker", buildKooworker(t), "-redis-conf", "../../deploy/redis.conf", "-json", file}, &stdout, &stderr)
	if err != nil {
		t.Fatalf("%v\n%s%s", err, stderr.String(), stdout.String())
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got report
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	figures, targets, cost := map[string]int{}, map[string]int{}, 0.0
	for _, f := range got.Figures {
		figures[f.Section]++
		if f.Target != nil {
			targets[f.Section]++
		}
		if f.Section == "cost" {
			cost += f.Median
		}
		// CPU time is counted in ticks of 10 ms, and so few tasks may take less.
		if inTicks := f.Section == "cost" || strings.HasPrefix(f.Unit, "%"); f.Median <= 0 && !inTicks {
			t.Errorf("%s: %s is %v; want more than 0", f.Section, f.Name, f.Median)
		}
		if !strings.Contains(stdout.String(), "| "+f.Name) {
			t.Errorf("the table lacks %q:\n%s", f.Name, stdout.String())
		}
	}
	if diff := cmp.Diff(map[string]int{"drain": 11, "cost": 12, "bulk": 5, "memory": 3, "idle": 6, "bytes": 3}, figures); diff != "" {
		t.Errorf("figures by section (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]int{"drain": 4, "bulk": 4, "memory": 2, "idle": 3, "bytes": 2}, targets); diff != "" {
		t.Errorf("targets by section (-want +got):\n%s", diff)
	}
	if cost <= 0 {
		t.Errorf("all drains together cost %v µs/task; want more than 0", cost)
	}
	q := quickSizes
	if want := int64(6*q.drain + q.memory + q.drain + q.samples); got.Calls.Tasks != want || got.Calls.Repeated != 0 {
		t.Errorf("%+v; want %d tasks, none repeated", got.Calls, want)
	}
	if m := got.Machine; m.Redis == "" || m.Go == "" || m.Cores == 0 || got.Settings.Kooworker == "" {
		t.Errorf("%+v, %+v; want the versions", m, got.Settings)
	}
}

func TestRun_WorkerFails(t *testing.T) {
	t.Parallel()
	bin := filepath.Join(t.TempDir(), "kooworker")
	const script = `#!/bin/sh
[ "$1" = version ] && { echo '{"version":"v0","go":"go0"}'; exit; }
echo out of luck >&2
exit 5
`
	if err := os.WriteFile(bin, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	for section, args := range map[string][]string{"drain": nil, "bulk": nil, "memory": nil, "idle": nil, "bytes": {"-redis-conf", "no-such-file"}} {
		var stdout, stderr bytes.Buffer
		err := run(t.Context(), append([]string{"-quick", "-kooworker", bin, "-sections", section}, args...), &stdout, &stderr)
		want := "out of luck"
		if section == "bytes" {
			want = "no-such-file"
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with what the process wrote", section, err)
		}
	}
}

func TestRun_Usage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-sections", "drain,brain"}, {"-rounds", "-1"}, {"-tasks", "9"}, {"-no-such-flag"}, {"more"}} {
		var stderr bytes.Buffer
		if err := run(t.Context(), args, &stderr, &stderr); !errors.Is(err, errUsage) || stderr.Len() == 0 {
			t.Errorf("%q: got %v and %q, want a wrong usage that is explained", args, err, stderr.String())
		}
	}
}

func TestStandIn(t *testing.T) {
	t.Parallel()
	var s standIn
	calls := s.expect(20)
	call := func(method, path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, http.NoBody))
		return w
	}
	for n := range 19 {
		call(http.MethodDelete, apiPath+task(n).DeviceID)
	}
	answer := call(http.MethodDelete, apiPath+task(3).DeviceID)
	if want := `"deviceId":"` + task(3).DeviceID + `"`; !strings.Contains(answer.Body.String(), want) {
		t.Errorf("got %s, want %s", answer.Body, want)
	}
	call(http.MethodDelete, apiPath+task(20).DeviceID) // is not expected
	call(http.MethodDelete, apiPath+"d-1")
	call(http.MethodGet, apiPath+task(19).DeviceID)
	if d, r, u := calls.distinct.Load(), calls.repeated.Load(), calls.unknown.Load(); d != 19 || r != 1 || u != 3 {
		t.Errorf("got %d tasks, %d repeated and %d unknown calls; want 19, 1 and 3", d, r, u)
	}
	if first, last := calls.first[0].Load(), calls.first[19].Load(); first == 0 || last != 0 {
		t.Errorf("task 0 was called at %d, task 19 at %d; want some time, and never", first, last)
	}
}

func TestCalls_FirstTenthDoesNotCount(t *testing.T) {
	t.Parallel()
	var s standIn
	calls := s.expect(25)
	for n := range 3 {
		if tenth := calls.tenth.Load(); (tenth > 0) != (n > 1) {
			t.Errorf("after %d of 25 calls, the first tenth ends at %d; want that after 2", n, tenth)
		}
		calls.count(n)
	}
	calls.tenth.Store(int64(2 * time.Second))
	if n, took := calls.counted(), calls.since(calls.began.Add(5*time.Second)); n != 23 || took != 3*time.Second {
		t.Errorf("%v tasks in %s count; want 23 in 3s", n, took)
	}
}

func TestDistance(t *testing.T) {
	t.Parallel()
	redis, err := startRedis(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer redis.stop()
	far, err := startDistance(redis.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer far.stop()
	rdb := newClient(far.addr())
	defer func() { _ = rdb.Close() }()
	for range 20 {
		began := time.Now()
		if err := rdb.Ping(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 2*time.Millisecond {
			t.Errorf("a round trip took %s; want 1 ms each way", took)
		}
	}
}

func TestFigures(t *testing.T) {
	t.Parallel()
	var r report
	r.add(figure{Rounds: []float64{3, 1, 2}, Target: atLeast(2)})
	r.add(figure{Rounds: []float64{4, 1}, Target: atLeast(3)})
	r.add(figure{Rounds: ratios([]float64{30, 50}, []float64{10, 50}), Target: below(2)})
	r.add(figure{Rounds: []float64{-1}, Target: below(10)})
	var got [][]any
	for _, f := range r.Figures {
		got = append(got, []any{f.Median, f.Target.Met})
	}
	if diff := cmp.Diff([][]any{{2.0, true}, {2.5, false}, {2.0, false}, {-1.0, true}}, got); diff != "" {
		t.Errorf("median, and whether the target is met (-want +got):\n%s", diff)
	}
	for v, want := range map[float64]string{0: "0", 2: "2", 0.126: "0.13", 35.5: "35.50", 480.4: "480", 1234.5: "1,234", 1234567: "1,234,567"} {
		if got := number(v); got != want {
			t.Errorf("number(%v) is %q, want %q", v, got, want)
		}
	}
}
