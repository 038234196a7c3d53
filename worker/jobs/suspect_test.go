package jobs

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/koodrive"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// TestDo_SuspectSaysWhenItIsCalled wants each call of a suspect, and nothing else,
// between two announcements.
func TestDo_SuspectSaysWhenItIsCalled(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		task tasks.Task
		age  time.Duration
		want []string
	}{
		"an unbind": {unbindTask, 0, []string{"calling false", "calling true", "unbind d", "calling false"}},
		"an unbind with its guard": {unbindTask, time.Hour, []string{
			"calling false", "calling true", "devices", "calling false", "calling true", "unbind d", "calling false",
		}},
		"a webhook that nobody posts": {tasks.BatchWebhook{BatchID: "b"}, 0, nil},
	} {
		b := setup(t, gate.Config{})
		job := pipeline.Job{Task: tc.task, Intent: tasks.Intent{EnqueuedAt: time.Now().Add(-tc.age)}}
		job.Calling = func(_ context.Context, calling bool) error { b.note("calling %v", calling); return nil }
		b.Do(t.Context(), job)
		b.wantAsked(t, name, tc.want...)
	}
}

// TestDo_SuspectAtTheGate is refused by the gate, and is not called.
func TestDo_SuspectAtTheGate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, gate.Config{Check: koodriveFails, MaxWait: time.Millisecond})
		b.answer = koodrive.Answer{Reason: tasks.Upstream, Status: 503}
		for _, user := range []string{"a", "b", "c"} {
			b.do(tasks.DeviceUnbind{UserID: user, DeviceID: "d"})
		}
		b.asked = nil
		var failure error
		job := pipeline.Job{Task: unbindTask, Calling: func(_ context.Context, calling bool) error { b.note("calling %v", calling); return failure }}
		if r := b.Do(t.Context(), job); r.Kind != pipeline.IsSnooze {
			t.Errorf("%+v; want it snoozed", r)
		}
		b.wantAsked(t, "while the gate is closed", "calling false")
		failure = errors.New("Redis is away")
		wantWaiting(t, "where it cannot say that it waits", b.Do(t.Context(), job))
		b.wantAsked(t, "without Redis", "calling false")
	})
}
