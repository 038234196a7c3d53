package jobs

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/koodrive"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// Each new kind needs an example here.
func TestDo_EveryKindHasItsJob(t *testing.T) {
	t.Parallel()
	examples := []tasks.Task{
		unbindTask, namedRelease, tasks.UserOffboard{UserID: "u"},
		tasks.LockSweep{Source: tasks.SourceSQL}, // this worker does not know the source
		tasks.BatchWebhook{BatchID: "b"},         // this worker has no webhook
	}
	for _, kind := range tasks.Kinds() {
		i := slices.IndexFunc(examples, func(t tasks.Task) bool { return t.Kind() == kind })
		if i < 0 {
			t.Errorf("%s has no example; add one above", kind)
			continue
		}
		u := &fakeUser{bundle: setup(t, gate.Config{})}
		u.Jobs.children = u
		if r := u.do(examples[i]); r == (pipeline.Result{}) {
			t.Errorf("%s: no result; want one of package pipeline's constructors", kind)
		}
	}
}

// A broker that knows no token for a user, and an id that the client refuses, end
// the task before KooDrive is called. That is no sign that KooDrive works.
func TestReport_NoCallIsNoGoodProbe(t *testing.T) {
	t.Parallel()
	for _, reason := range []tasks.Reason{tasks.Forbidden, tasks.Invalid} {
		synctest.Test(t, func(t *testing.T) {
			b := setup(t, outage)
			b.answer = koodrive.Answer{Reason: tasks.Upstream, Status: 503}
			for _, user := range []string{"a", "b", "c"} {
				b.do(tasks.DeviceUnbind{UserID: user, DeviceID: "d"})
			}
			b.answer = koodrive.Answer{Reason: reason, Message: "no call was made"}
			for range 10 {
				time.Sleep(2 * time.Minute) //nolint:forbidigo // in a synctest bubble
				if r := b.do(unbindTask); r.Kind != pipeline.IsFailed || r.Reason != reason {
					t.Errorf("%s: %+v; want it to be the task's own", reason, r)
				}
			}
			if s := b.gate.Status(); s.Breakers[gate.Unbind].State == gate.Closed || s.InFlight != 0 {
				t.Errorf("%s: the gate is %+v; want it not closed by answers that are not KooDrive's, and nothing in flight", reason, s)
			}
			b.answer = koodrive.Answer{Reason: reason, Status: 403} // KooDrive's own
			b.do(unbindTask)
			if s := b.gate.Status(); s.Breakers[gate.Unbind].State != gate.Closed {
				t.Errorf("%s: the gate is %+v; want it closed by an answer of KooDrive's", reason, s)
			}
		})
	}
}
