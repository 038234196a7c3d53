package enqueue

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"sync"
	"time"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/enqueue/records"
	"github.com/kooworker/kooworker/tasks"
)

// BulkOptions say how Bulk enqueues. The zero value enqueues each task by
// itself, without a batch.
type BulkOptions struct {
	// Batch puts the tasks into a batch, which is made, or resumed if it is
	// there. NoGuard follows the option of that name. Nil: no batch.
	Batch *batch.Spec
	// Restore enqueues again what the batch counts as queued and no queue holds:
	// tasks that somebody has deleted there, or that Redis has lost.
	Restore bool
	// Options are those of every task.
	Options []Option
	// OnItem is called with what became of each item, by one goroutine at a time
	// and not quite in their order. It must not block for long. Nil: nobody.
	OnItem func(Item)
	// OnStart is called with the batch's ID before the first item is enqueued. Nil:
	// nobody.
	OnStart func(id string, resumed bool)
	// Timeout is how long Redis may fail to take a chunk, with everything that is
	// tried in between. Default 10 s.
	Timeout time.Duration
}

// Further statuses, of items of a bulk.
const (
	// Rejected: the item is no task; see Item.Err.
	Rejected Status = "rejected"
	// Skipped: the batch has it already, from a run before.
	Skipped Status = "skipped"
)

// InputError means that the input itself has failed, and was not read to its
// end. What came before is enqueued.
type InputError struct{ Err error }

// Error implements error.
func (e *InputError) Error() string { return "the input: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *InputError) Unwrap() error { return e.Err }

// Item is what became of one item of the input.
type Item struct {
	// Number counts the items from 0.
	Number int64
	// Task is nil if it is none.
	Task tasks.Task
	// ID is the asynq task ID; empty if it was rejected or skipped.
	ID     string
	Status Status
	// Err says why it was rejected.
	Err error
}

// BulkResult sums up what became of the items. Total is the sum of the others.
type BulkResult struct {
	// Batch is the batch's ID, empty without one.
	Batch     string
	Total     int64
	Enqueued  int64
	Duplicate int64
	Rejected  int64
	Skipped   int64
}

func (r *BulkResult) count(s Status) {
	r.Total++
	switch s {
	case Enqueued:
		r.Enqueued++
	case Duplicate:
		r.Duplicate++
	case Rejected:
		r.Rejected++
	case Skipped:
		r.Skipped++
	}
}

const (
	// exchanges is how many chunks are under way at a time: while Redis works at
	// one the next is written and the last is read.
	exchanges = 4
	// readAhead is how many items may wait in front of that.
	readAhead = 2 * batch.ChunkSize
	// idle is how long an item waits for others to fill its chunk.
	idle = 100 * time.Millisecond
	// grace is how long a chunk that is under way may go on when ctx has ended.
	grace = 1500 * time.Millisecond

	defaultBulkTimeout = 10 * time.Second
)

// Bulk enqueues all tasks of an input, hundreds in one exchange with Redis, in
// bounded memory. An error of the input that is a *records.LineError or a
// *tasks.FieldError rejects that item, and the rest goes on; any other ends the
// bulk with an *InputError.
//
// With a batch, an interrupted bulk is resumed by calling Bulk again with the
// same batch and the same input: what the batch has is skipped. Another input is
// a *batch.InputError. Without a batch, what is outstanding is a duplicate.
//
// When ctx ends, what is under way is brought to its end, for at most two
// seconds, and the error is ctx's; the result says what was done. An input that
// blocks is left behind.
func (c *Client) Bulk(ctx context.Context, input iter.Seq2[tasks.Task, error], o BulkOptions) (BulkResult, error) {
	opts, err := compose(c.now(), o.Options)
	if err != nil {
		return BulkResult{}, err
	}
	b := &bulk{client: c, o: o, noGuard: opts.noGuard, timeout: cmp.Or(o.Timeout, defaultBulkTimeout), store: batch.NewStore(c.rdb)}
	err = b.run(ctx, input)
	return b.result, err
}

// bulk is one call of Bulk.
type bulk struct {
	client  *Client
	store   *batch.Store
	o       BulkOptions
	noGuard bool
	timeout time.Duration

	mu     sync.Mutex // guards result, and Each
	result BulkResult
}

// raw is an item as it was read.
type raw struct {
	task tasks.Task
	err  error
}

func (b *bulk) run(ctx context.Context, input iter.Seq2[tasks.Task, error]) error {
	reading, stopReading := context.WithCancelCause(ctx)
	defer stopReading(nil)
	// The chunks outlive ctx for a while, so that the result is the truth.
	working, stopWorking := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWorking()
	defer context.AfterFunc(reading, func() { time.AfterFunc(grace, stopWorking) })()

	jobs := make(chan job)
	var workers sync.WaitGroup
	for range exchanges {
		workers.Go(func() {
			d := b.client.newDictation()
			for job := range jobs {
				if err := b.put(working, d, job); err != nil {
					stopReading(err)
				}
			}
		})
	}
	feed := feeder{bulk: b, jobs: jobs}
	err := feed.all(reading, working, read(reading, input))
	close(jobs)
	workers.Wait()
	if failed := context.Cause(reading); failed != nil {
		return sayWhy(ctx, failed)
	}
	if err != nil || !b.batched() {
		return err
	}
	if err := b.open(ctx); err != nil { // the input is empty
		return err
	}
	_, err = b.store.CloseInput(ctx, b.result.Batch, feed.read)
	return err
}

func (b *bulk) batched() bool { return b.o.Batch != nil }

// open makes the batch, or finds it, when there is something to put into it: of
// an input that cannot be read nothing stays.
func (b *bulk) open(ctx context.Context) error {
	if b.result.Batch != "" {
		return nil
	}
	spec := *b.o.Batch
	spec.NoGuard = b.noGuard
	id, resumed := "", false
	err := b.patiently(ctx, func(ctx context.Context) (err error) {
		id, resumed, err = b.store.Open(ctx, spec)
		return err
	})
	if err != nil {
		return err
	}
	b.result.Batch = id
	if b.o.OnStart != nil {
		b.o.OnStart(id, resumed)
	}
	return nil
}

// read pulls the input in a goroutine of its own, since it may block. The last
// item may be an error that ends it.
func read(ctx context.Context, input iter.Seq2[tasks.Task, error]) <-chan raw {
	items := make(chan raw, readAhead)
	go func() {
		defer close(items)
		for task, err := range input {
			select {
			case items <- raw{task, err}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return items
}

// rejectable reports whether an error of the input is about one item.
func rejectable(err error) bool {
	if _, line := errors.AsType[*records.LineError](err); line {
		return true
	}
	_, field := errors.AsType[*tasks.FieldError](err)
	return field
}

// report counts entries and tells of them.
func (b *bulk) report(entries []entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range entries {
		b.result.count(e.status)
		if b.o.OnItem != nil {
			b.o.OnItem(Item{Number: e.number, Task: e.task, ID: e.id, Status: e.status, Err: e.err})
		}
	}
}
