package main

import (
	"math"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/fleet"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
	"github.com/kooworker/kooworker/worker/overview"
)

// While a worker runs, the batch commands say how long the rest takes.
func TestBatch_TimeLeft(t *testing.T) {
	t.Parallel()
	const n = 4000
	server := redistest.Start(t)
	sim, url := startSimulator(t)
	limit, err := simulator.ParseQuota("fixed:200/s,tell=text")
	if err == nil {
		err = sim.AddQuota(limit)
	}
	if err != nil {
		t.Fatal(err)
	}
	batchCommand := func(command string, args ...string) result {
		t.Helper()
		return kooworker(t, "", append([]string{"batch", command, "b-1", "--redis-url", server.URL()}, args...)...)
	}
	unknown := func() {
		t.Helper()
		if left, known := batchCommand("show", "--json").object(t)["left_seconds"]; known {
			t.Errorf("left_seconds %v without a worker; want none", left)
		}
		if r := batchCommand("show"); !strings.Contains(r.stdout, "unknown: no worker runs") {
			t.Errorf("%+v without a worker; want this to be the reason", r)
		}
	}
	if r := kooworker(t, unbindsCSV(n), "enqueue", "unbind", "--file", "-", "--batch", "b-1", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	unknown()
	p := startWorker(t, server, url)
	redistest.Eventually(t, 20*time.Second, "the time left is about what the quota allows", func() bool {
		state := batchCommand("show", "--json").object(t)
		queued, _ := state["queued"].(float64)
		left, _ := state["left_seconds"].(float64)
		return left >= math.Ceil(queued/200) && left < queued/150
	})
	if r := batchCommand("show"); !strings.Contains(r.stdout, "time left") || strings.Contains(r.stdout, "unknown") {
		t.Errorf("%+v; want the time left", r)
	}
	watch := startProcess(t, nil, "batch", "watch", "b-1", "--redis-url", server.URL())
	redistest.Eventually(t, 20*time.Second, "watch shows the time left", func() bool { return strings.Contains(watch.log(), " s left") })
	watch.end(t, syscall.SIGINT)
	if code := p.end(t, syscall.SIGTERM); code != exitDone {
		t.Fatalf("exit %d; want exit 0:\n%s", code, p.log())
	}
	unknown()
}

// What people read says what the time left was computed from.
func TestBatchLeft_ForPeople(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		forecast forecast
		seconds  int64
		want     string
	}{
		{forecast{}, 0, ""},
		{forecast{unknown: "nothing was done in the last minute"}, 0, "unknown: nothing was done in the last minute"},
		{forecast{blocked: overview.Cause{Text: "no worker runs", Hint: "start one"}}, 0, "unknown: no worker runs"},
		{forecast{rate: 5, isMeasured: true}, 100, "about 100 s, at the present 5.0/s"},
		{forecast{rate: 200, fastest: 200}, 5000, "at least 83 min, at the 200/s that the quota or --rate allows"},
	} {
		if got := (batchLeft{forecast: tc.forecast, LeftSeconds: tc.seconds}).timeLeft(); got != tc.want {
			t.Errorf("%+v, %d s: %q; want %q", tc.forecast, tc.seconds, got, tc.want)
		}
	}
}

// A measurement is preferred to the model, and the quota bounds it.
func TestForecastOf(t *testing.T) {
	t.Parallel()
	unbinds := []tasks.Kind{tasks.KindDeviceUnbind}
	quotaOf := func(perSecond float64) fleet.Quota {
		return fleet.Quota{Kinds: map[gate.Kind]float64{gate.Unbind: perSecond}}
	}
	recent := func(n, attempts int) batch.Recent {
		return batch.Recent{Kinds: unbinds, Tasks: n, Attempts: attempts, Span: 10 * time.Second}
	}
	for name, tc := range map[string]struct {
		quota  fleet.Quota
		recent batch.Recent
		want   forecast
	}{
		"nothing is known":                {want: forecast{}},
		"only a rate for calls of a kind": {quota: quotaOf(200), want: forecast{}}, // which calls the batch makes is not known
		"only a rate for all calls":       {quota: fleet.Quota{Ceiling: 50}, want: forecast{rate: 50, fastest: 50}},
		"only the quota":                  {quota: quotaOf(200), recent: batch.Recent{Kinds: unbinds}, want: forecast{rate: 200, fastest: 200}},
		"only a measurement":              {recent: recent(500, 500), want: forecast{rate: 50, isMeasured: true}},
		"both":                            {quotaOf(200), recent(500, 500), forecast{rate: 50, isMeasured: true, fastest: 200}},
		"the quota has fallen":            {quotaOf(20), recent(500, 500), forecast{rate: 20, fastest: 20}},
		"half of the attempts fail":       {quotaOf(60), recent(500, 1000), forecast{rate: 30, fastest: 30}},
		"few need a call":                 {quotaOf(20), recent(500, 125), forecast{rate: 50, isMeasured: true, fastest: 80}},
		"none needs a call":               {quotaOf(20), recent(500, 0), forecast{rate: 50, isMeasured: true}},
		"nothing for a minute":            {quotaOf(200), batch.Recent{Kinds: unbinds, IsStalled: true}, forecast{unknown: "nothing was done in the last minute"}},
	} {
		if got := forecastOf(tc.quota, tc.recent); got != tc.want {
			t.Errorf("%s: %+v; want %+v", name, got, tc.want)
		}
	}
}

// A limit counts if the calls of the batch fall under it.
func TestModelOf(t *testing.T) {
	t.Parallel()
	quota := fleet.Quota{Kinds: map[gate.Kind]float64{gate.Unbind: 200, gate.List: 50}}
	for _, tc := range []struct {
		kinds []tasks.Kind
		want  float64
	}{
		{nil, 0},
		{[]tasks.Kind{tasks.KindDeviceUnbind}, 200},
		{[]tasks.Kind{tasks.KindLockRelease}, 0},
		{[]tasks.Kind{tasks.KindUserOffboard, tasks.KindDeviceUnbind}, 250},
		{[]tasks.Kind{tasks.KindLockRelease, tasks.KindDeviceUnbind}, 0},
		{[]tasks.Kind{tasks.KindLockSweep, tasks.KindDeviceUnbind}, 200}, // a sweep makes no calls
	} {
		if got := modelOf(quota, batch.Recent{Kinds: tc.kinds}).Quota; got != tc.want {
			t.Errorf("%v: %g calls a second; want %g", tc.kinds, got, tc.want)
		}
	}
}

// What can be read is used, whatever else cannot be read.
func TestForecaster_Unreadable(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	forecasts := newForecaster(rdb)
	check := func(when string, want forecast) {
		t.Helper()
		if got := forecasts.of(t.Context(), "b-1"); !cmp.Equal(got, want, cmp.AllowUnexported(forecast{})) {
			t.Errorf("%s: %+v; want %+v", when, got, want)
		}
	}
	const workers, quota, receipts = "{kooworker:fleet}:workers", "{kooworker:fleet}:quota", "kooworker:{batch:b-1}:receipts"
	if got := forecasts.of(t.Context(), "b-1"); got.blocked.Text != "no worker runs" {
		t.Errorf("in an empty Redis: %+v; want that no worker runs", got)
	}
	rdb.Set(t.Context(), workers, "of a later version", 0)
	check("with workers that cannot be counted", forecast{})
	rdb.HSet(t.Context(), quota, "all:rate", 200, "all:phase", "following")
	known := forecast{rate: 200, fastest: 200}
	check("with a quota", known)
	rdb.Do(t.Context(), "XADD", receipts, "*", "k", "device:unbind", "a", "many")
	rdb.Do(t.Context(), "XADD", receipts, "*", "k", "device:unbind", "a", "many")
	check("with receipts that cannot be read", known)
	rdb.Del(t.Context(), quota)
	rdb.Set(t.Context(), quota, "of a later version", 0)
	check("with a quota that cannot be read", forecast{})
}

// Each task that calls KooDrive has its call.
func TestCallOf(t *testing.T) {
	t.Parallel()
	calls := map[gate.Kind]bool{}
	for _, kind := range tasks.Kinds() {
		if call := callOf(kind); call != "" {
			calls[call] = true
		}
	}
	if len(calls) != len(gate.Kinds()) {
		t.Errorf("tasks make the calls %v; want %v", calls, gate.Kinds())
	}
}
