package batches

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/enqueue/waiting"
)

// HoldResult is what Hold or Release did.
type HoldResult struct {
	// Moved is how many tasks were put off, or are pending again. A task that was not in its
	// queue just then is held by the worker that comes to it.
	Moved int64
	// InFlight is how many tasks workers still had in hand.
	InFlight int64
}

// EarlierError means that a batch is held for longer than it should be now.
type EarlierError struct{ Held batch.Hold }

// Error implements error.
func (e *EarlierError) Error() string {
	until := "until it is released"
	if !e.Held.Until.IsZero() {
		until = "until " + e.Held.Until.Format(time.RFC3339)
	}
	return fmt.Sprintf("batch %s is held %s, by %s; a hold can be made longer, but not shorter", e.Held.Batch, until, e.Held.By)
}

// Hint says what to do about it.
func (e *EarlierError) Hint() string {
	return "kooworker batch release " + e.Held.Batch + " ends the hold at once"
}

// DoneError means that there is nothing to hold in a batch.
type DoneError struct{ ID string }

// Error implements error.
func (e *DoneError) Error() string { return "batch " + e.ID + " is done: there is nothing to hold" }

// Hold holds a batch, and returns when no worker begins a task of it any more. A batch that is
// held already can be held for longer: what was put off until the old end is put off until the
// new one. If the process dies in between, workers do that when the old end has come.
func Hold(ctx context.Context, rdb redis.UniversalClient, h batch.Hold, progress func(held int64)) (res HoldResult, err error) {
	ledger, queues := batch.NewStore(rdb), waiting.NewStore(rdb)
	lane, err := ledger.Lane(ctx, h.Batch)
	if err != nil {
		return res, err
	}
	if stats, err := ledger.Show(ctx, h.Batch); err != nil || stats.Done {
		return res, cmp.Or(err, error(&DoneError{ID: h.Batch}))
	}
	old, isHeld, err := ledger.HoldOf(ctx, h.Batch)
	if err != nil {
		return res, err
	}
	if isHeld && !old.Ended && h.DueAt().Before(old.DueAt()) && time.Now().Before(old.DueAt()) {
		return res, &EarlierError{Held: old}
	}
	if err := ledger.Hold(ctx, h); err != nil {
		return res, err
	}
	began := time.Now()
	query := waiting.OfBatch(h.Batch, lane, nil)
	if isHeld && !h.DueAt().Equal(old.DueAt()) {
		if _, err := queues.Release(ctx, query, old.DueAt(), func(int64) {}); err != nil {
			return res, err
		}
	}
	if res.Moved, err = queues.Hold(ctx, query, h.DueAt(), progress); err != nil {
		return res, err
	}
	if err := sleep(ctx, learnt-time.Since(began)); err != nil {
		return res, err
	}
	n, err := queues.CountActive(ctx, query)
	res.InFlight = int64(n)
	return res, err
}

// Release releases a batch that is held. It first ends the hold, so that workers put off
// nothing more, and then makes pending what was put off. Last it forgets the hold. If the
// process dies in between, the hold is still there, and has ended: running Release again
// finishes it. If somebody holds the batch again meanwhile, that hold stays. If there is no
// hold, it does nothing.
func Release(ctx context.Context, rdb redis.UniversalClient, id string, progress func(released int64)) (res HoldResult, err error) {
	ledger, queues := batch.NewStore(rdb), waiting.NewStore(rdb)
	if _, err := ledger.Show(ctx, id); err != nil {
		return res, err
	}
	lane, err := ledger.Lane(ctx, id)
	if err != nil {
		return res, err
	}
	h, isHeld, err := ledger.HoldOf(ctx, id)
	if err != nil || !isHeld {
		return res, err
	}
	if !h.Ended {
		if h, err = ledger.End(ctx, h); err != nil {
			return res, err
		}
		if err := sleep(ctx, learnt); err != nil {
			return res, err
		}
	}
	if res.Moved, err = queues.Release(ctx, waiting.OfBatch(id, lane, nil), h.DueAt(), progress); err != nil {
		return res, err
	}
	return res, ledger.ForgetHold(ctx, h)
}

// sleep returns an error if ctx ends before the time is over.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
