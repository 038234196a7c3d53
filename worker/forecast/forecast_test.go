package forecast

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/fleet"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/overview"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What people read says what the time left was computed from.
func TestBatch_TimeLeft(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		forecast Forecast
		seconds  int64
		want     string
	}{
		{Forecast{}, 0, ""},
		{Forecast{Unknown: "nothing was done in the last minute"}, 0, "unknown: nothing was done in the last minute"},
		{Forecast{Blocked: overview.Cause{Text: "no worker runs", Hint: "start one"}}, 0, "unknown: no worker runs"},
		{Forecast{Rate: 5, IsMeasured: true}, 100, "about 100 s, at the present 5.0/s"},
		{Forecast{Rate: 200, Fastest: 200}, 5000, "at least 83 min, at the 200/s that the quota or --rate allows"},
	} {
		if got := (Batch{Forecast: tc.forecast, LeftSeconds: tc.seconds}).TimeLeft(); got != tc.want {
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
		want   Forecast
	}{
		"nothing is known":                {want: Forecast{}},
		"only a rate for calls of a kind": {quota: quotaOf(200), want: Forecast{}}, // which calls the batch makes is not known
		"only a rate for all calls":       {quota: fleet.Quota{Ceiling: 50}, want: Forecast{Rate: 50, Fastest: 50}},
		"only the quota":                  {quota: quotaOf(200), recent: batch.Recent{Kinds: unbinds}, want: Forecast{Rate: 200, Fastest: 200}},
		"only a measurement":              {recent: recent(500, 500), want: Forecast{Rate: 50, IsMeasured: true}},
		"both":                            {quotaOf(200), recent(500, 500), Forecast{Rate: 50, IsMeasured: true, Fastest: 200}},
		"the quota has fallen":            {quotaOf(20), recent(500, 500), Forecast{Rate: 20, Fastest: 20}},
		"half of the attempts fail":       {quotaOf(60), recent(500, 1000), Forecast{Rate: 30, Fastest: 30}},
		"few need a call":                 {quotaOf(20), recent(500, 125), Forecast{Rate: 50, IsMeasured: true, Fastest: 80}},
		"none needs a call":               {quotaOf(20), recent(500, 0), Forecast{Rate: 50, IsMeasured: true}},
		"nothing for a minute":            {quotaOf(200), batch.Recent{Kinds: unbinds, IsStalled: true}, Forecast{Unknown: "nothing was done in the last minute"}},
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
		if got := overview.ModelOf(quota, batch.Recent{Kinds: tc.kinds}).Quota; got != tc.want {
			t.Errorf("%v: %g calls a second; want %g", tc.kinds, got, tc.want)
		}
	}
}

// What can be read is used, whatever else cannot be read.
func TestForecaster_Unreadable(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	forecasts := New(rdb)
	check := func(when string, want Forecast) {
		t.Helper()
		if got := forecasts.Of(t.Context(), "b-1"); !cmp.Equal(got, want) {
			t.Errorf("%s: %+v; want %+v", when, got, want)
		}
	}
	const workers, quota, receipts = "{kooworker:fleet}:workers", "{kooworker:fleet}:quota", "kooworker:{batch:b-1}:receipts"
	if got := forecasts.Of(t.Context(), "b-1"); got.Blocked.Text != "no worker runs" {
		t.Errorf("in an empty Redis: %+v; want that no worker runs", got)
	}
	rdb.Set(t.Context(), workers, "of a later version", 0)
	check("with workers that cannot be counted", Forecast{})
	rdb.HSet(t.Context(), quota, "all:rate", 200, "all:phase", "following")
	known := Forecast{Rate: 200, Fastest: 200}
	check("with a quota", known)
	rdb.Do(t.Context(), "XADD", receipts, "*", "k", "device:unbind", "a", "many")
	rdb.Do(t.Context(), "XADD", receipts, "*", "k", "device:unbind", "a", "many")
	check("with receipts that cannot be read", known)
	rdb.Del(t.Context(), quota)
	rdb.Set(t.Context(), quota, "of a later version", 0)
	check("with a quota that cannot be read", Forecast{})
}

// Each task that calls KooDrive has its call.
func TestCallOf(t *testing.T) {
	t.Parallel()
	calls := map[gate.Kind]bool{}
	for _, kind := range tasks.Kinds() {
		if call := overview.CallOf(kind); call != "" {
			calls[call] = true
		}
	}
	if len(calls) != len(gate.Kinds()) {
		t.Errorf("tasks make the calls %v; want %v", calls, gate.Kinds())
	}
}
