package worker

import (
	"context"
	"errors"
	"iter"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	enqueuelocks "github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/koodrive"
	"github.com/kooworker/kooworker/worker/locks"
	"github.com/kooworker/kooworker/worker/locks/source"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// fakeTable is a database with one lock.
type fakeTable struct {
	mu    sync.Mutex
	sight source.LockState
	fail  error
	looks int
}

func (f *fakeTable) Kind() tasks.Source                                 { return tasks.SourceSQL }
func (f *fakeTable) Close() error                                       { return nil }
func (f *fakeTable) Locks(context.Context) iter.Seq2[tasks.Lock, error] { return nil }

func (f *fakeTable) Lookup(context.Context, []tasks.LockID) ([]source.LockState, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
	return []source.LockState{f.sight}, f.fail
}

// external is the table as a source that nobody sweeps.
func (f *fakeTable) external() []*locks.External {
	return []*locks.External{locks.NewExternal(f, enqueuelocks.NewSweptStore(nil, tasks.SourceSQL))}
}

func (f *fakeTable) renew() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sight.ExpiresAt = f.sight.ExpiresAt.Add(time.Hour)
}

var (
	seenAt     = time.UnixMilli(1000).UTC()
	sqlRelease = tasks.LockRelease{UserID: "u", LockID: "l@102", Evidence: tasks.SweepEvidence{Source: tasks.SourceSQL, ExpiredAt: seenAt}}
)

func TestALockOfAnotherSourceIsLookedForThere(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		table      *fakeTable
		called     bool
		superseded bool
	}{
		"as it was":   {&fakeTable{sight: source.LockState{Found: true, ExpiresAt: seenAt}}, true, false},
		"renewed":     {&fakeTable{sight: source.LockState{Found: true, ExpiresAt: seenAt.Add(time.Hour)}}, false, true},
		"gone":        {&fakeTable{}, false, true},
		"no database": {&fakeTable{fail: errors.New("no connection")}, false, false},
	} {
		f := &fakeClaims{ticket: 7, answer: pipeline.Answer{Reason: tasks.OK}}
		core, logs := observer.New(zapcore.WarnLevel)
		sources := newListed(c.table.external(), zap.New(core))
		k := newKeeper(f, f, sources, koodrive.Config{})
		var a pipeline.Answer
		for range 3 {
			f.said = nil
			a = k.Do(t.Context(), sqlRelease)
		}
		switch {
		case c.called:
			f.want(t, name, "claim", "call", "end 7 true")
		default:
			f.want(t, name, "claim", "end 7 false")
		}
		if a.Superseded != c.superseded || a.Uncalled == c.called {
			t.Errorf("%s: %+v", name, a)
		}
		if failed := c.table.fail != nil; failed != (a.Held && a.Reason == tasks.Waiting && a.RetryAfter > time.Second) || failed != (logs.Len() == 1) {
			t.Errorf("%s: %+v, %d lines in the log; want it to wait, and one line", name, a, logs.Len())
		}
	}
}

func TestAReleaseWaitsForAWorkerThatKnowsItsSource(t *testing.T) {
	t.Parallel()
	f := &fakeClaims{ticket: 7, answer: pipeline.Answer{Reason: tasks.OK}}
	core, logs := observer.New(zapcore.WarnLevel)
	k := newKeeper(f, f, newListed(nil, zap.New(core)), koodrive.Config{})
	for range 100 {
		if a := k.Do(t.Context(), sqlRelease); a.Reason != tasks.Waiting || !a.Held || !a.Uncalled || a.RetryAfter <= 0 {
			t.Fatalf("%+v; want it to wait, uncharged", a)
		}
	}
	f.want(t, "unknown")
	if logs.Len() != 1 {
		t.Errorf("%d lines in the log; want one", logs.Len())
	}
}

// resting is a fleet that must wait until then.
type resting struct{ until time.Time }

func (resting) Pause(context.Context, time.Duration) {}

func (r resting) Snapshot() (live int, closedFor time.Duration) { return 1, time.Until(r.until) }

// A task that has waited at the gate looks once more before its call.
func TestALookGrowsOld(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		wait    time.Duration // at the gate
		renewed bool          // meanwhile
		looks   int
		called  bool
	}{
		"at once":           {0, false, 1, true},
		"later":             {3 * time.Second, false, 2, true},
		"later and renewed": {3 * time.Second, true, 2, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				table := &fakeTable{sight: source.LockState{Found: true, ExpiresAt: seenAt}}
				sources := newListed(table.external(), zap.NewNop())
				g, err := gate.New(gate.Config{Fleet: resting{time.Now().Add(c.wait)}})
				if err != nil {
					t.Fatal(err)
				}
				f := &fakeClaims{ticket: 7, answer: pipeline.Answer{Reason: tasks.OK}}
				k := newKeeper(gated{lookout{f, sources}, g}, f, sources, koodrive.Config{})
				if c.renewed {
					timer := time.AfterFunc(c.wait/2, table.renew)
					defer timer.Stop()
				}
				a := k.Do(t.Context(), sqlRelease)
				if table.looks != c.looks || a.Superseded == c.called || a.Reason != tasks.OK {
					t.Errorf("%+v after %d looks", a, table.looks)
				}
				if status := g.Status(); status.State != gate.Closed {
					t.Errorf("the gate is %+v", status)
				}
			})
		})
	}
}

// stopped is the context of a process that was stopped until its time was over,
// and whose timers have not gone off yet.
type stopped struct{ context.Context }

func (stopped) Deadline() (time.Time, bool) { return time.Now().Add(-time.Second), true }

func TestNoCallIsMadeAfterItsTime(t *testing.T) {
	t.Parallel()
	f := &fakeClaims{answer: pipeline.Answer{Reason: tasks.OK}}
	a := lookout{f, newListed(nil, zap.NewNop())}.Do(stopped{t.Context()}, staleRelease)
	if a.Reason != tasks.Waiting || !a.Held || !a.Uncalled {
		t.Errorf("%+v; want it to wait, uncharged", a)
	}
	f.want(t, "after its time")
}

func TestReleasesWaitAsLongAgainAsTheirSourceHasFailed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newListed(nil, zap.NewNop())
		for _, c := range []struct{ after, least, most time.Duration }{
			{0, 5 * time.Second, 10 * time.Second}, {3 * time.Second, 5 * time.Second, 10 * time.Second},
			{9 * time.Second, 12 * time.Second, 24 * time.Second}, {time.Hour, 30 * time.Second, time.Minute},
		} {
			time.Sleep(c.after) //nolint:forbidigo // in a synctest bubble
			if d := l.pause(tasks.SourceSQL); d < c.least || d > c.most {
				t.Errorf("%s later a release waits for %s; want %s to %s", c.after, d, c.least, c.most)
			}
		}
		l.answers(tasks.SourceSQL)
		if d := l.pause(tasks.SourceSQL); d > 10*time.Second {
			t.Errorf("a source that fails anew: %s", d)
		}
	})
}
