package tasks_test

import (
	"testing"

	"github.com/kooworker/kooworker/tasks"
)

func TestBatchStats_GoneWarning(t *testing.T) {
	t.Parallel()
	const warning = "21 of 40 tasks were already gone: are the ids right? KooDrive says the same of ids that it does not know"
	for _, tc := range []struct {
		stats tasks.BatchStats
		want  string
	}{
		{tasks.BatchStats{Succeeded: 19, AlreadyGone: 21, Dead: 100, Queued: 100}, warning},
		{tasks.BatchStats{Succeeded: 10, Superseded: 9, AlreadyGone: 21}, warning},
		{tasks.BatchStats{Succeeded: 20, AlreadyGone: 20}, ""},
		{tasks.BatchStats{AlreadyGone: 19}, ""}, // too few to tell
		{tasks.BatchStats{Succeeded: 1000}, ""},
		{tasks.BatchStats{}, ""},
	} {
		if got := tc.stats.GoneWarning(); got != tc.want {
			t.Errorf("%+v: %q; want %q", tc.stats, got, tc.want)
		}
	}
}
