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

func TestBatchStats_CheckGone(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		stats tasks.BatchStats
		most  float64
		want  string
	}{
		{tasks.BatchStats{Succeeded: 6, Superseded: 1, AlreadyGone: 3, Dead: 90}, 0.29, "3 of 10 tasks were already gone, which is more than a share of 0.29: are the ids right? KooDrive says the same of ids that it does not know"},
		{tasks.BatchStats{Succeeded: 6, Superseded: 1, AlreadyGone: 3}, 0.3, ""},
		{tasks.BatchStats{AlreadyGone: 1}, 0, "1 of 1 tasks were already gone, which is more than a share of 0: are the ids right? KooDrive says the same of ids that it does not know"},
		{tasks.BatchStats{AlreadyGone: 1}, 1, ""},
		{tasks.BatchStats{Succeeded: 1}, 0, ""},
		{tasks.BatchStats{Dead: 1}, 0, ""},
	} {
		got := ""
		if err := tc.stats.CheckGone(tc.most); err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("%+v, %g: %q; want %q", tc.stats, tc.most, got, tc.want)
		}
	}
}
