package fleet

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/gate/quota"
)

// logged returns the log lines so far.
func logged(logs *observer.ObservedLogs) (lines []string) {
	for _, entry := range logs.TakeAll() {
		fields := entry.ContextMap()
		lines = append(lines, fmt.Sprint(entry.Level, " ", fields["call"], " ", fields["calls_per_second"], " told=", fields["told"]))
	}
	return lines
}

func following(rate float64) quota.Estimate {
	return quota.Estimate{Phase: quota.Following, Rate: rate}
}

// A quota is logged when it has changed by a lot, and no more than once a minute.
func TestLogQuota(t *testing.T) {
	t.Parallel()
	told := quota.Limit{Calls: 100, Window: time.Second}
	for name, tc := range map[string]struct {
		estimates []quota.Estimate // one every ten seconds, for unbinds
		want      []string
	}{
		"no limit":             {[]quota.Estimate{{}, {}}, nil},
		"learnt":               {[]quota.Estimate{{}, following(198), following(190), following(210)}, []string{"info unbind 198 told=false"}},
		"told":                 {[]quota.Estimate{{Phase: quota.Following, Rate: 99.2, At: 5000, Told: told, ToldAt: 5000}}, []string{"info unbind 99.2 told=true"}},
		"told long ago":        {[]quota.Estimate{{Phase: quota.Following, Rate: 120, At: 3_600_000, Told: told, ToldAt: 5000}}, []string{"info unbind 120 told=false"}},
		"searching, then shut": {[]quota.Estimate{{Phase: quota.Searching, Rate: 400}, following(200), {Phase: quota.Closed, Rate: 1}, following(210)}, []string{"info unbind 200 told=false"}},
		"forgotten":            {append(slices.Repeat([]quota.Estimate{following(200)}, 7), quota.Estimate{}, quota.Estimate{}), []string{"info unbind 200 told=false", "info unbind <nil> told=<nil>"}},
		"oscillating": {slices.Repeat([]quota.Estimate{following(100), following(200)}, 6), []string{
			"info unbind 100 told=false", "info unbind 200 told=false",
		}},
		"halved at once": {append([]quota.Estimate{following(200)}, slices.Repeat([]quota.Estimate{following(100)}, 12)...), []string{
			"info unbind 200 told=false", "info unbind 100 told=false",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				core, logs := observer.New(zap.DebugLevel)
				f := New(nil, zap.New(core))
				for _, e := range tc.estimates {
					f.logQuota(string(gate.Unbind), e)
					time.Sleep(10 * time.Second) //nolint:forbidigo // in a bubble
				}
				if diff := cmp.Diff(tc.want, logged(logs)); diff != "" {
					t.Errorf("lines (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// Each kind of calls has lines of its own, and so has the limit of all kinds together.
func TestExchange_LogsTheQuota(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.DebugLevel)
	f := New(redistest.Start(t).Client(), zap.New(core))
	limit := func(calls int) quota.Limit { return quota.Limit{Calls: calls, Window: time.Second} }
	_, err := f.Exchange(t.Context(), gate.Ask{
		Kinds: []gate.Asked{{Kind: gate.Unbind, Told: limit(100)}, {Kind: gate.Release, Told: limit(50)}}, Told: limit(120),
	})
	want := []string{"info unbind 99.2 told=true", "info release 49.6 told=true", "info all 119 told=true"}
	if diff := cmp.Diff(want, logged(logs)); err != nil || diff != "" {
		t.Errorf("%v; lines (-want +got):\n%s", err, diff)
	}
}
