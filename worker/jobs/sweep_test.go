package jobs

import (
	"context"
	"fmt"
	"iter"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/kooworker/kooworker/enqueue/batch"
	enqueuelocks "github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// countedReleases counts the releases of a sweep, or fails with err.
type countedReleases struct {
	n   int
	err error
}

func (c *countedReleases) EnqueueReleases(_ context.Context, _ string, releases iter.Seq2[tasks.Task, error]) (enqueued []tasks.Task, err error) {
	if c.err != nil {
		return nil, c.err
	}
	for t, err := range releases {
		if err != nil {
			return enqueued, err
		}
		enqueued = append(enqueued, t)
	}
	c.n = len(enqueued)
	return enqueued, nil
}

func TestSweep_ResultAndReport(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	ledger, releases := enqueuelocks.NewStore(rdb), &countedReleases{}
	now := time.Now()
	var entries []enqueuelocks.TrackRequest
	for i := range 100 {
		expires := now.Add(time.Hour)
		if i < 12 {
			expires = now.Add(-time.Hour)
		}
		entries = append(entries, enqueuelocks.TrackRequest{UserID: "u", LockID: fmt.Sprint("l", i), ExpiresAt: expires})
	}
	if _, err := ledger.Track(t.Context(), entries); err != nil {
		t.Fatal(err)
	}
	b := setup(t, gate.Config{})
	b.sweepers = newSweepers(Config{Releases: releases, Logger: zap.NewNop()}, ledger, batch.NewStore(rdb))

	if r := b.do(tasks.LockSweep{Max: 10}); r != pipeline.Done(nil) || releases.n != 10 {
		t.Errorf("%+v after %d releases; want done after 10", r, releases.n)
	}
	last, err := ledger.LastSweeps(t.Context())
	if err != nil || len(last) != 1 || last[0].Total != 100 || last[0].Stale != 12 || last[0].Enqueued != 10 || last[0].HeldBack != 2 || last[0].Why == "" {
		t.Errorf("the last sweeps are %+v, %v; want one of 100 locks, 12 stale, 10 enqueued, 2 held back, and why", last, err)
	}

	releases.err = errAway
	wantSnoozed(t, "Redis", b.do(tasks.LockSweep{}))
	releases.err = nil
	if _, err := ledger.AcquireLease(t.Context(), "somebody else", time.Minute); err != nil {
		t.Fatal(err)
	}
	wantWaiting(t, "another sweep is running", b.do(tasks.LockSweep{}))
	wantWaiting(t, "a source that this worker does not know", b.do(tasks.LockSweep{Source: tasks.SourceSQL}))
}
