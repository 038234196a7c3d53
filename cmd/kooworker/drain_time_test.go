package main

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/forecast"
	"github.com/kooworker/kooworker/worker/forecast/draintime"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// The model predicts how long a real worker takes, to within a fifth, on a machine that runs
// other tests at the same time; and so do the commands while it works. What counts is when
// 90 % of the tasks are done: the model leaves out that the last ones that failed wait for
// their backoff.
//
// It does not run beside the other tests of this package, which start dozens of processes.
func TestDrainTime(t *testing.T) { //nolint:tparallel // see above
	const tolerance, share = 0.2, 0.9
	for name, tc := range map[string]struct {
		n      int
		quota  string
		faults []string
		args   []string
		model  draintime.Model
		// missed is by how much of the whole time the forecast may be wrong when half is done.
		missed float64
	}{
		"the quota limits": {
			n: 600, quota: "bucket:50/s,burst=5,tell=text", args: []string{"--concurrency", "64"},
			model: draintime.Model{Quota: 50, Slots: 64, Latency: 2 * time.Millisecond}, missed: 0.2,
		},
		"the latency limits": {
			n: 480, faults: []string{"slow,delay=500ms"}, args: []string{"--concurrency", "20"},
			model: draintime.Model{Slots: 20, Latency: 500 * time.Millisecond}, missed: 0.2,
		},
		// One attempt at every other device fails: three attempts do two tasks.
		// The repeated attempts come after all others, so that the second half goes faster.
		"attempts fail": {
			n: 650, quota: "bucket:50/s,burst=5,tell=text", faults: []string{"status=503,call=unbind,target=*[02468],times=1,per-target"},
			args:  []string{"--concurrency", "64"},
			model: draintime.Model{Quota: 50, Slots: 64, Latency: 2 * time.Millisecond, FailureShare: 1. / 3}, missed: 0.4,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			sim, url := startSimulator(t, tc.faults...)
			if tc.quota != "" {
				quota, err := simulator.ParseQuota(tc.quota)
				if err == nil {
					err = sim.AddQuota(quota)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			startWorker(t, server, url, tc.args...)
			if r := kooworker(t, unbindsCSV(tc.n), "enqueue", "unbind", "--file", "-", "--batch", "b-1", "--redis-url", server.URL()); r.code != exitDone {
				t.Fatalf("%+v; want exit 0", r)
			}
			rdb := server.Client()
			store, forecasts := batch.NewStore(rdb), forecast.New(rdb)
			now := func() time.Time {
				at, err := rdb.Time(t.Context()).Result()
				if err != nil {
					t.Fatal(err)
				}
				return at
			}
			last := int64(share * float64(tc.n)) // the task whose end counts
			var foreseen, ended time.Time        // its end, as it was foreseen when half of them were done
			until, enough := context.WithCancel(t.Context())
			defer enough()
			_, err := store.Wait(until, "b-1", func(b tasks.BatchStats) {
				done := b.Total - b.Queued
				if done >= last {
					enough()
				}
				if foreseen.IsZero() && b.Queued > 0 && done > last/2 && done < last {
					left := float64(last-done) / forecasts.Of(t.Context(), b.ID).Rate
					foreseen = now().Add(time.Duration(left * float64(time.Second)))
				}
			})
			if err != nil && until.Err() == nil {
				t.Fatal(err)
			}
			begun, n := time.Time{}, int64(0)
			for r, err := range store.Receipts(t.Context(), "b-1", batch.ReceiptOptions{}) {
				if err != nil {
					t.Fatal(err)
				}
				if n++; n == 1 {
					begun = r.At
				}
				if n <= last {
					ended = r.At
				}
			}
			took, want, missed := ended.Sub(begun).Seconds(), tc.model.Seconds(last), ended.Sub(foreseen).Seconds()
			t.Logf("%d tasks took %.2f s, where %.2f s were predicted; when half of them were done, the forecast of the end was wrong by %.2f s", last, took, want, missed)
			if math.Abs(took-want) > tolerance*want {
				t.Errorf("%d tasks took %.2f s; want %.2f s, as the model predicts", last, took, want)
			}
			if math.Abs(missed) > tc.missed*took {
				t.Errorf("when half was done, the forecast of the end was wrong by %.2f s; want at most %.2f s", missed, tc.missed*took)
			}
		})
	}
}
