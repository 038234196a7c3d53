package deadletter_test

import (
	"slices"
	"testing"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// TestWithdraw deletes the letter of a crash, and no other letter.
func TestWithdraw(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work(t, func(deadletter.Letter) error { return nil })
	letters := map[string]deadletter.Letter{}
	for id, reason := range map[string]tasks.Reason{"crashed": tasks.Crashed, "forbidden": tasks.Forbidden, "another": tasks.Crashed} {
		l := deadletter.Letter{ID: id, Kind: tasks.KindDeviceUnbind, Queue: tasks.QueueUnbind, Payload: []byte(id), Reason: reason, Error: string(reason)}
		letters[id] = l
		if err := b.store.Park(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	b.awaitParked(t, 3)
	for id, payload := range map[string]string{"crashed": "crashed", "forbidden": "forbidden", "another": "of another order", "missing": ""} {
		if err := b.store.Withdraw(t.Context(), id, []byte(payload)); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	var left []string
	for _, l := range b.list(t, deadletter.Filter{}) {
		left = append(left, l.ID)
	}
	if slices.Sort(left); !slices.Equal(left, []string{"another", "forbidden"}) {
		t.Errorf("left are %v; want all but the crashed one", left)
	}
	if got := b.list(t, deadletter.Filter{Reasons: []tasks.Reason{tasks.Crashed}}); len(got) != 1 {
		t.Errorf("the index lists %v as crashed; want the other one", got)
	}
}
