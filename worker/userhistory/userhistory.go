// Package userhistory joins everything that is known to have happened to one user: the
// receipts of batches, those of single orders, off-boardings and what these have found, and
// the dead letters that have no receipt. None of the packages that keep them knows the others.
//
// `kooworker history` and the dashboard show it. It owns no key in Redis and only reads. It
// must not import package worker, asynq, nor what calls KooDrive.
//
// Tasks that wait are not in it: they have no index by user, and all queues would have to be
// read to find them.
package userhistory

import (
	"context"
	"iter"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/enqueue/history"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/locks"
)

// Filter selects what happened to one target. The zero value selects everything.
type Filter struct {
	DeviceID string // only unbinds of this device; "": any
	LockID   string // only releases of this lock; "": any
}

// matches reports whether the filter selects a receipt.
func (f Filter) matches(r tasks.Receipt) bool {
	switch {
	case f.DeviceID != "" && (r.Kind != tasks.KindDeviceUnbind || r.Target != f.DeviceID):
		return false
	case f.LockID != "" && (r.Kind != tasks.KindLockRelease || r.Target != f.LockID):
		return false
	default:
		return true
	}
}

// Read returns what is known of a user, oldest first. Each receipt has its source. A task that
// was replayed has a receipt for each outcome. What batches with --no-receipts and workers with
// --no-history have done is missing, but for their dead letters.
func Read(ctx context.Context, rdb redis.UniversalClient, userID string, f Filter) (events []tasks.Receipt, err error) {
	batches, singles, letters := batch.NewStore(rdb), history.NewStore(rdb), deadletter.NewStore(rdb)
	known := make(map[tasks.Receipt]bool) // the deaths that have a receipt
	for _, receipts := range []iter.Seq2[tasks.Receipt, error]{batches.OfUser(ctx, userID), singles.OfUser(ctx, userID)} {
		for r, err := range receipts {
			if err != nil {
				return nil, err
			}
			if !f.matches(r) {
				continue
			}
			if r.Source == tasks.FromBatch && locks.IsSweep(r.Batch) {
				r.Source = tasks.FromSweep
			}
			if r.Outcome == tasks.Dead {
				known[deathOf(r)] = true
			}
			events = append(events, r)
		}
	}
	for l, err := range letters.List(ctx, deadletter.Filter{UserID: userID}) {
		if err != nil {
			return nil, err
		}
		if r := receiptOfLetter(l); f.matches(r) && !known[deathOf(r)] {
			events = append(events, r)
		}
	}
	slices.SortStableFunc(events, func(a, b tasks.Receipt) int { return a.At.Compare(b.At) })
	return events, nil
}

// receiptOfLetter tells of a dead letter as a receipt does. The letters of a batch without
// receipts, of --no-history, or of what is no task, have no receipt of their own.
func receiptOfLetter(l deadletter.Letter) tasks.Receipt {
	r := tasks.Receipt{
		BatchRef: tasks.BatchRef{Batch: l.Batch}, Kind: l.Kind, UserID: l.UserID, Target: l.Target,
		Outcome: tasks.Dead, Reason: l.Reason, Attempts: l.Attempts, At: l.DeadAt.UTC(), Source: tasks.FromDeadLetter,
	}
	if decoded, ok := l.Receipt(tasks.Dead); ok {
		r.BatchRef = decoded.BatchRef
	}
	return r
}

// deathOf is what a dead letter and its receipt have in common.
func deathOf(r tasks.Receipt) tasks.Receipt {
	return tasks.Receipt{BatchRef: r.BatchRef, Kind: r.Kind, Target: r.Target, Outcome: r.Outcome, Reason: r.Reason, Attempts: r.Attempts}
}
