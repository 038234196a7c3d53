package jobs

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/koodrive"
	"github.com/kooworker/kooworker/worker/pipeline"
)

var unbindTask = tasks.DeviceUnbind{UserID: "u", DeviceID: "d"}

func TestUnbind_LeavesTheLockLedgerAlone(t *testing.T) {
	t.Parallel()
	b := setup(t, gate.Config{})
	if r := b.do(unbindTask); r != pipeline.Done(nil) {
		t.Errorf("result %+v; want done", r)
	}
	b.wantAsked(t, "an unbind", "unbind d")
}

func TestUnbind_ResultOfEachAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		device := &tasks.Device{DeviceID: "d"}
		for name, c := range map[string]struct {
			answer koodrive.Answer
			want   pipeline.ResultKind
		}{
			"done":      {koodrive.Answer{Reason: tasks.OK, Device: device}, pipeline.IsDone},
			"gone":      {koodrive.Answer{Reason: tasks.Gone}, pipeline.IsAlreadyGone},
			"forbidden": {koodrive.Answer{Reason: tasks.Forbidden, Status: 403}, pipeline.IsFailed},
			"upstream":  {koodrive.Answer{Reason: tasks.Upstream, Status: 500}, pipeline.IsFailed},
			"unreached": {koodrive.Answer{Reason: tasks.Network, NoServerReached: true}, pipeline.IsOutage},
			"throttled": {koodrive.Answer{Reason: tasks.Throttled, Status: 429}, pipeline.IsOutage},
		} {
			b := setup(t, gate.Config{})
			b.answer = c.answer
			r := b.do(unbindTask)
			if r.Kind != c.want || r.Reason != c.answer.Reason || r.Device != c.answer.Device {
				t.Errorf("%s: %+v; want kind %d with the answer's reason and device", name, r, c.want)
			}
			if r.Detail != c.answer.Detail() || r.Hint != c.answer.Hint() && r.Kind >= pipeline.IsOutage {
				t.Errorf("%s: %+v; want the answer's detail and hint", name, r)
			}
		}
	})
}

// The answer that opens the breaker is an Outage. The refusals after it are a
// Snooze, since nothing was sent.
func TestUnbind_OutageIsNotCharged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, gate.Config{Check: koodriveFails, MaxWait: time.Millisecond})
		b.answer = koodrive.Answer{Reason: tasks.Upstream, Status: 503}
		for _, user := range []string{"a", "b", "c"} {
			if r := b.do(tasks.DeviceUnbind{UserID: user, DeviceID: "d"}); r.Kind != pipeline.IsOutage || r.Reason != tasks.Upstream || r.RetryAfter <= 0 {
				t.Errorf("a call that opens the breaker: %+v; want an outage", r)
			}
		}
		if r := b.do(unbindTask); r.Kind != pipeline.IsSnooze || r.Reason != tasks.Upstream || r.RetryAfter <= 0 {
			t.Errorf("while the breaker is open: %+v; want it snoozed", r)
		}
		b.wantAsked(t, "an outage", "unbind d", "unbind d", "unbind d")
	})
}

func TestUnbind_PanicFreesItsPermit(t *testing.T) {
	t.Parallel()
	b := setup(t, gate.Config{MaxInFlight: 1})
	b.panics = true
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic; want it to reach the pipeline")
			}
		}()
		b.do(unbindTask)
	}()
	b.panics = false
	if r := b.do(unbindTask); r.Kind != pipeline.IsDone {
		t.Errorf("after a panic: %+v; want done", r)
	}
}

func TestUnbind_Guard(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	old, young := start.Add(-time.Hour), start.Add(-time.Minute)
	for name, tc := range map[string]struct {
		intent  tasks.Intent
		bound   time.Time
		listing tasks.Reason
		want    pipeline.ResultKind
		calls   int
	}{
		"young":                      {tasks.Intent{EnqueuedAt: young}, start, tasks.OK, pipeline.IsDone, 1},
		"of unknown age":             {tasks.Intent{}, start, tasks.OK, pipeline.IsDone, 1},
		"old, bound before":          {tasks.Intent{EnqueuedAt: old}, old.Add(-time.Second), tasks.OK, pipeline.IsDone, 2},
		"old, bound again":           {tasks.Intent{EnqueuedAt: old}, old.Add(guardMargin + time.Second), tasks.OK, pipeline.IsSuperseded, 1},
		"old, bound again, no guard": {tasks.Intent{EnqueuedAt: old, NoGuard: true}, old.Add(guardMargin + time.Second), tasks.OK, pipeline.IsDone, 1},
		// It was bound before, and the producer's clock is 30 s behind KooDrive's.
		"old, two clocks":     {tasks.Intent{EnqueuedAt: old}, old.Add(30 * time.Second), tasks.OK, pipeline.IsDone, 2},
		"old, not bound":      {tasks.Intent{EnqueuedAt: old}, time.Time{}, tasks.OK, pipeline.IsDone, 2},
		"old, nothing listed": {tasks.Intent{EnqueuedAt: old}, time.Time{}, tasks.Gone, pipeline.IsAlreadyGone, 2},
		"old, listing fails":  {tasks.Intent{EnqueuedAt: old}, time.Time{}, tasks.Upstream, pipeline.IsFailed, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, gate.Config{})
			b.now = func() time.Time { return start }
			b.answer = koodrive.Answer{Reason: tc.listing}
			if !tc.bound.IsZero() {
				b.devices = []tasks.Device{{DeviceID: "other", CreateTime: start}, {DeviceID: "d", CreateTime: tc.bound}}
			}
			r := b.Do(context.Background(), pipeline.Job{Task: unbindTask, Intent: tc.intent})
			if r.Kind != tc.want || len(b.asked) != tc.calls {
				t.Errorf("%+v after %q; want kind %d after %d calls", r, b.asked, tc.want, tc.calls)
			}
		})
	}
}
