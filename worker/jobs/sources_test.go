package jobs

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/locks"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// fakeTable is a database with one lock.
type fakeTable struct {
	mu      sync.Mutex
	refused string
	fail    error
	lookups int
}

func (f *fakeTable) Kind() tasks.SourceKind { return tasks.SourceSQL }

func (f *fakeTable) Lookup(context.Context, tasks.LockRelease) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lookups++
	return f.refused, f.fail
}

func (f *fakeTable) renew() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refused = "it was renewed"
}

var sqlRelease = tasks.LockRelease{UserID: "u", LockID: "l@102", Evidence: tasks.SweepEvidence{Source: tasks.SourceSQL, ExpiredAt: seenAt}}

func TestRelease_RechecksAnotherSource(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		table *fakeTable
		want  pipeline.ResultKind
	}{
		"as it was":   {&fakeTable{}, pipeline.IsDone},
		"renewed":     {&fakeTable{refused: "it was renewed"}, pipeline.IsSuperseded},
		"gone":        {&fakeTable{refused: "it is not listed any more"}, pipeline.IsSuperseded},
		"no database": {&fakeTable{fail: &locks.ListError{Err: errors.New("no connection")}}, pipeline.IsWait},
	} {
		b := setup(t, gate.Config{}, c.table)
		var r pipeline.Result
		for range 3 {
			b.asked = nil
			r = b.do(sqlRelease)
		}
		if c.want == pipeline.IsDone {
			b.wantAsked(t, name, "claim external", "release", "released 7")
		} else {
			b.wantAsked(t, name, "claim external", "unclaim 7")
		}
		if r.Kind != c.want {
			t.Errorf("%s: %+v; want kind %d", name, r, c.want)
		}
		if failed := c.table.fail != nil; failed != (r.Reason == tasks.Waiting && r.RetryAfter > time.Second) || failed != (b.logs.Len() == 1) {
			t.Errorf("%s: %+v, %d lines in the log; want a wait and one line if the database failed, else neither", name, r, b.logs.Len())
		}
	}
}

func TestRelease_WaitsForAWorkerThatKnowsItsSource(t *testing.T) {
	t.Parallel()
	b := setup(t, gate.Config{})
	for range 100 {
		wantWaiting(t, "unknown source", b.do(sqlRelease))
	}
	b.wantAsked(t, "unknown source")
	if b.logs.Len() != 1 {
		t.Errorf("%d lines in the log; want one", b.logs.Len())
	}
}

// pausing is a fleet that has no tokens until a time.
type pausing struct{ until time.Time }

func (r pausing) Exchange(_ context.Context, a gate.Ask) (gate.Grant, error) {
	var g gate.Grant
	for _, c := range a.Kinds {
		g.Kinds = append(g.Kinds, gate.Granted{Kind: c.Kind, N: min(c.Want, 1), First: time.Until(r.until), Spacing: time.Second, Rate: 1})
	}
	return g, nil
}

func (pausing) Tell(gate.News) {}

func (pausing) Snapshot() gate.Snapshot {
	return gate.Snapshot{Live: 1}
}

func TestRelease_RechecksAfterAWaitAtTheGate(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		wait    time.Duration // at the gate
		renewed bool          // meanwhile
		lookups int
		want    pipeline.ResultKind
	}{
		"at once":           {0, false, 1, pipeline.IsDone},
		"later":             {3 * time.Second, false, 2, pipeline.IsDone},
		"later and renewed": {3 * time.Second, true, 2, pipeline.IsSuperseded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				table := &fakeTable{}
				b := setup(t, gate.Config{Fleet: pausing{time.Now().Add(c.wait)}}, table)
				if c.renewed {
					timer := time.AfterFunc(c.wait/2, table.renew)
					defer timer.Stop()
				}
				r := b.do(sqlRelease)
				if table.lookups != c.lookups || r.Kind != c.want {
					t.Errorf("%+v after %d lookups; want kind %d after %d", r, table.lookups, c.want, c.lookups)
				}
				if status := b.gate.Status(); status.Breakers[gate.Release].State != gate.Closed || status.InFlight != 0 {
					t.Errorf("the gate is %+v; want it closed, and nothing in flight", status)
				}
			})
		})
	}
}

func TestLockSources_PauseGrowsWithTheOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newLockSources(nil, zap.NewNop())
		for _, c := range []struct{ after, least, most time.Duration }{
			{0, 5 * time.Second, 10 * time.Second}, {3 * time.Second, 5 * time.Second, 10 * time.Second},
			{9 * time.Second, 12 * time.Second, 24 * time.Second}, {time.Hour, 30 * time.Second, time.Minute},
		} {
			time.Sleep(c.after) //nolint:forbidigo // in a synctest bubble
			if d := s.pause(tasks.SourceSQL); d < c.least || d > c.most {
				t.Errorf("%s later a release waits for %s; want %s to %s", c.after, d, c.least, c.most)
			}
		}
		s.markHealthy(tasks.SourceSQL)
		if d := s.pause(tasks.SourceSQL); d > 10*time.Second {
			t.Errorf("after a good answer the next failure makes a release wait for %s; want at most 10s", d)
		}
	})
}
