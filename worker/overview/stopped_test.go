package overview

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/fleet"
	"github.com/kooworker/kooworker/worker/gate"
)

// What one worker finds now counts for those that found the same when a task came last: a few
// tasks are in one worker at a time. What nobody finds now is no cause.
func TestStopped_UntestedWorkers(t *testing.T) {
	t.Parallel()
	early, late := time.Date(2026, 11, 28, 1, 0, 0, 0, time.UTC), time.Date(2026, 11, 28, 2, 0, 0, 0, time.UTC)
	of := func(reason tasks.Reason, since time.Time) []fleet.Stopped {
		return []fleet.Stopped{{Call: gate.Unbind, Reason: reason, Since: since}}
	}
	refuses := func(since time.Time) fleet.Report { return fleet.Report{Stopped: of(tasks.Unauthorized, since)} }
	refused := func(since time.Time) fleet.Report { return fleet.Report{Untested: of(tasks.Unauthorized, since)} }
	failed := fleet.Report{Untested: of(tasks.Upstream, early)}
	works := fleet.Report{}
	stopped := func(reason tasks.Reason, since time.Time, workers int) []Stopped {
		return []Stopped{{Stopped: of(reason, since)[0], Workers: workers}}
	}
	for name, tc := range map[string]struct {
		reports           []fleet.Report
		stopped, untested []Stopped
		cause             string // empty: none
		standstill        bool
	}{
		"all work":                        {[]fleet.Report{works, works}, nil, nil, "", false},
		"all find it":                     {[]fleet.Report{refuses(late), refuses(early)}, stopped(tasks.Unauthorized, early, 2), nil, "since", true},
		"one finds it, one has no task":   {[]fleet.Report{refuses(late), refused(early)}, stopped(tasks.Unauthorized, late, 2), nil, "since", true},
		"one found something else":        {[]fleet.Report{refuses(late), failed}, stopped(tasks.Unauthorized, late, 1), stopped(tasks.Upstream, early, 1), "1 of 2", true},
		"one finds it, another one works": {[]fleet.Report{refuses(late), works}, stopped(tasks.Unauthorized, late, 1), nil, "1 of 2", false},
		"it is over, and one has no task": {[]fleet.Report{works, refused(early)}, nil, stopped(tasks.Unauthorized, early, 1), "", false},
		"no task for anybody":             {[]fleet.Report{refused(late), refused(early)}, nil, stopped(tasks.Unauthorized, early, 2), "", false},
	} {
		var v Overview
		v.Workers.List, v.Workers.Live = tc.reports, len(tc.reports)
		v.setStopped()
		if diff := cmp.Diff(Gate{Stopped: tc.stopped, Untested: tc.untested}, v.Gate, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		switch causes := v.Causes(); {
		case tc.cause == "" && len(causes) > 0:
			t.Errorf("%s: %q; want no cause", name, causes[0].Text)
		case tc.cause != "" && (len(causes) != 1 || !strings.Contains(causes[0].Text, tc.cause)):
			t.Errorf("%s: %+v; want one cause with %q", name, causes, tc.cause)
		}

		rdb := redistest.Start(t).Client()
		for i, r := range tc.reports {
			r.ID = string(rune('a' + i))
			publish(t, rdb, r)
		}
		cause, err := Standstill(t.Context(), rdb, []gate.Kind{gate.Unbind})
		if err != nil || (cause.Text != "") != tc.standstill {
			t.Errorf("%s: %v, %q; want a standstill: %t", name, err, cause.Text, tc.standstill)
		}
	}
}
