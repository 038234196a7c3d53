package worker

import (
	"context"
	"errors"
	"iter"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	enqueuelocks "github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/locks"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// fakeSwept is a ledger with so many locks, of which so many are stale.
type fakeSwept struct {
	total, stale int64
	err          error
	kept         time.Duration
	n            int
}

func (f *fakeSwept) Kind() tasks.Source { return tasks.SourceLedger }

func (f *fakeSwept) Stats(context.Context, time.Duration, int64) (locks.Stats, error) {
	return locks.Stats{Total: f.total, Stale: f.stale, Oldest: f.oldest()}, f.err
}

func (f *fakeSwept) oldest() iter.Seq2[tasks.Lock, error] {
	return func(yield func(tasks.Lock, error) bool) {
		for range f.stale {
			if !yield(tasks.Lock{UserID: "u", LockID: "l", ExpiresAt: time.UnixMilli(1000)}, nil) {
				return
			}
		}
	}
}

func (f *fakeSwept) MarkSwept(context.Context, []tasks.Lock) error { return nil }

func (f *fakeSwept) Drop(_ context.Context, keep time.Duration) (int64, error) {
	f.kept = keep
	return 0, nil
}

func (f *fakeSwept) Abandon(context.Context, string) error { return nil }

func (f *fakeSwept) Releases(_ context.Context, _ string, releases iter.Seq2[tasks.Task, error]) (enqueued []tasks.Task, err error) {
	for t, err := range releases {
		if err != nil {
			return enqueued, err
		}
		enqueued = append(enqueued, t)
	}
	f.n = len(enqueued)
	return enqueued, nil
}

func TestASweepIsATask(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	m, err := newMetrics(registry, func() gate.Status { return gate.Status{} })
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeSwept{total: 100, stale: 12}
	store := enqueuelocks.NewStore(redistest.Start(t).Client())
	sweeper := func(f *fakeSwept) map[tasks.Source]*locks.Sweeper {
		return map[tasks.Source]*locks.Sweeper{tasks.SourceLedger: {Source: f, Store: store, Producer: f, Logger: zap.NewNop()}}
	}
	s := &sweeps{sweepers: sweeper(f), keep: time.Hour, metrics: m, log: zap.NewNop()}
	if a := s.do(t.Context(), tasks.LockSweep{Max: 10}); a != (pipeline.Answer{Reason: tasks.OK}) || f.n != 10 || f.kept != time.Hour {
		t.Errorf("%+v after %d releases, kept for %s", a, f.n, f.kept)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			if labels := metric.GetLabel(); len(labels) == 2 && labels[0].GetValue() == "ledger" && labels[1].GetName() == "state" {
				got[labels[1].GetValue()] = metric.GetGauge().GetValue()
			}
		}
	}
	for state, want := range map[string]float64{"all": 100, "stale": 12, "enqueued": 10, "held_back": 2} {
		if got[state] != want {
			t.Errorf("the metric %s is %g; want %g", state, got[state], want)
		}
	}
	for _, name := range []string{"Redis", "busy"} {
		s.sweepers = sweeper(&fakeSwept{err: errors.New("Redis is away")})
		if name == "busy" {
			if acquired, err := store.AcquireLease(t.Context(), "another", time.Minute); err != nil || !acquired {
				t.Fatal(acquired, err)
			}
			s.sweepers = sweeper(&fakeSwept{})
		}
		if a := s.do(t.Context(), tasks.LockSweep{}); a.Reason != tasks.Waiting || !a.Held || !a.Uncalled || a.RetryAfter <= 0 {
			t.Errorf("%s: %+v; want it to wait, uncharged", name, a)
		}
	}
}

func TestASweepWithoutALedgerWaits(t *testing.T) {
	t.Parallel()
	s := newSweeps(Config{Logger: zap.NewNop()}, newListed(nil, zap.NewNop()), nil)
	for _, sweep := range []tasks.LockSweep{{}, {Source: tasks.SourceSQL}} {
		a := s.do(t.Context(), sweep)
		if a.Reason != tasks.Waiting || !a.Held || !a.Uncalled || a.RetryAfter <= 0 {
			t.Errorf("%+v: %+v; want it to wait, uncharged", sweep, a)
		}
	}
}
