package batches

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/enqueue/waiting"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// CancelResult is what Cancel did.
type CancelResult struct {
	// Cancelled is how many tasks were cancelled: of a whole batch by Cancel and meanwhile by
	// workers, of a part by Cancel.
	Cancelled int64 `json:"cancelled"`
	// InFlight is how many tasks workers still have in hand. They end by themselves.
	InFlight int64 `json:"in_flight"`
	// Left is how many tasks are queued and not in flight. If it is not 0, Cancel was
	// interrupted, and running it again cancels them.
	Left int64 `json:"left"`
	// IsKnown is false if Redis did not tell what was done.
	IsKnown bool `json:"-"`
}

const (
	// learnt is how long it takes until every worker knows of a cancellation.
	learnt = 2 * time.Second
	// patience is how long Cancel waits for tasks in flight to end.
	patience = 20 * time.Second
	// pause is the time between two looks at the queues.
	pause = 200 * time.Millisecond
)

// Cancel cancels the tasks of a batch that c selects. It returns when nothing of them waits and
// nothing is in flight, or if what is in flight takes long. progress is called with
// the number of tasks that were cancelled so far. The result holds even with an error.
func Cancel(ctx context.Context, rdb redis.UniversalClient, c batch.Cancellation, progress func(cancelled int64)) (CancelResult, error) {
	j := &job{Cancellation: c, progress: progress, ledger: batch.NewStore(rdb), queues: waiting.NewStore(rdb), letters: deadletter.NewStore(rdb)}
	before, err := j.ledger.Show(ctx, c.Batch)
	if err != nil {
		return CancelResult{}, err
	}
	j.before = before.Cancelled
	lane, err := j.ledger.Lane(ctx, c.Batch)
	if err != nil {
		return CancelResult{}, err
	}
	j.query = waiting.OfBatch(c.Batch, lane, func(t waiting.Task) bool { return c.Covers(t.Intent.BatchRef, t.Task) })
	inFlight, cancelErr := j.run(ctx)

	// The result says what was done, also after an interrupt.
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer stop()
	after, err := j.ledger.Show(ctx, c.Batch)
	if err != nil {
		return CancelResult{}, cmp.Or(cancelErr, err)
	}
	res := CancelResult{Cancelled: j.cancelled(after), InFlight: int64(inFlight), IsKnown: true}
	progress(res.Cancelled)
	if c.IsWhole() || cancelErr != nil { // otherwise the others of the batch are queued
		res.Left = max(after.Queued-res.InFlight, 0)
	}
	return res, cancelErr
}

// job is one call of Cancel.
type job struct {
	batch.Cancellation

	ledger   *batch.Store
	queues   *waiting.Store
	letters  *deadletter.Store
	query    waiting.Query
	progress func(cancelled int64)
	recorded atomic.Int64
	before   int64 // tasks of the batch that were cancelled before this job
	deadSeen int64 // letters that the ledger counted when they were last discarded
}

// cancelled returns how many tasks are cancelled so far, given the counts of the batch.
// Workers cancel some of a whole batch. Of a part only those count that the job itself has
// recorded: somebody else may cancel another part.
func (j *job) cancelled(stats tasks.BatchStats) int64 {
	if j.IsWhole() {
		return stats.Cancelled - j.before
	}
	return j.recorded.Load()
}

// showProgress shows how many tasks are cancelled, until ctx ends.
func (j *job) showProgress(ctx context.Context) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if stats, err := j.ledger.Show(ctx, j.Batch); err == nil {
				j.progress(j.cancelled(stats))
			}
		}
	}
}

// run goes through the queues until nothing is left in them. It returns how many tasks
// are in flight.
func (j *job) run(ctx context.Context) (inFlight int, err error) {
	if err := j.ledger.Cancel(ctx, j.Cancellation); err != nil {
		return 0, err
	}
	var showing sync.WaitGroup
	defer showing.Wait()
	shown, stop := context.WithCancel(ctx)
	defer stop()
	showing.Go(func() { j.showProgress(shown) })
	began := time.Now()
	lastFound := began
	for {
		// Tasks move from queues to workers and back, so they are counted in flight after
		// the queues were found empty.
		removed, err := j.queues.Remove(ctx, j.query, j.record)
		if err != nil {
			return inFlight, err
		}
		if err := j.discardLetters(ctx); err != nil {
			return inFlight, err
		}
		if inFlight, err = j.queues.CountActive(ctx, j.query); err != nil {
			return inFlight, err
		}
		if removed > 0 {
			lastFound = time.Now()
			continue
		}
		if inFlight == 0 && time.Since(began) > learnt {
			return 0, j.finish(ctx, true)
		}
		if time.Since(lastFound) > patience {
			return inFlight, j.finish(ctx, false)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return inFlight, ctx.Err()
		}
	}
}

// record records tasks that are about to be deleted.
func (j *job) record(ctx context.Context, page []waiting.Task) error {
	receipts := make([]tasks.Receipt, len(page))
	for i, t := range page {
		receipts[i] = t.CancelledReceipt(j.ReceiptReason())
	}
	return j.recordOutcomes(ctx, receipts)
}

func (j *job) recordOutcomes(ctx context.Context, receipts []tasks.Receipt) error {
	if _, _, err := j.ledger.RecordOutcomes(ctx, receipts); err != nil {
		return fmt.Errorf("record what is cancelled: %w", err)
	}
	j.recorded.Add(int64(len(receipts)))
	return nil
}

// discardLetters discards the dead letters, if the ledger counts any that were not
// looked for yet. A letter that is being replayed just now is left to the worker.
func (j *job) discardLetters(ctx context.Context) error {
	stats, err := j.ledger.Show(ctx, j.Batch)
	if err != nil || stats.Dead == j.deadSeen {
		return err
	}
	filter := deadletter.Filter{Batch: j.Batch, UserID: j.UserID}
	if j.Kind != "" {
		filter.Kinds = []tasks.Kind{j.Kind}
	}
	_, err = j.letters.Discard(ctx, filter, deadletter.Options{RecordOutcomes: func(ctx context.Context, receipts []tasks.Receipt) error {
		for i := range receipts {
			receipts[i].Outcome, receipts[i].Reason = tasks.Cancelled, j.ReceiptReason()
		}
		return j.recordOutcomes(ctx, receipts)
	}})
	if err != nil {
		return err
	}
	stats, err = j.ledger.Show(ctx, j.Batch)
	j.deadSeen = stats.Dead
	return err
}

// finish records what no queue holds, and closes the batch's input. Nobody can add to it
// any more.
func (j *job) finish(ctx context.Context, settled bool) error {
	if !j.IsWhole() {
		return nil
	}
	if settled {
		if _, err := j.ledger.CancelRest(ctx, j.Cancellation); err != nil {
			return err
		}
	}
	return j.ledger.Abandon(ctx, j.Batch)
}
