package jobs

import (
	"slices"
	"testing"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
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
