package enqueue

import (
	"cmp"
	"context"
	"iter"
	"sync"
	"time"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/cancelable"
	"github.com/kooworker/kooworker/tasks"
)

// BulkOptions say how Bulk enqueues. The zero value enqueues each task by
// itself, without a batch.
type BulkOptions struct {
	// Batch puts the tasks into this batch, which is made, or resumed if it
	// exists. Its NoGuard is set from the option NoGuard. Nil: no batch.
	Batch *batch.Spec
	// Restore enqueues again the tasks that the batch counts as queued and no queue
	// holds: somebody has deleted them there, or Redis has lost them.
	Restore bool
	// Options apply to every task.
	Options []Option
	// OnItem is called with what became of each item. It is called by one goroutine
	// at a time, and not quite in the order of the items: a rejected item is reported
	// as soon as it is read. It must not block for long. Nil: it is not called.
	OnItem func(Item)
	// OnStart is called with the batch's ID before the first item is enqueued. Nil:
	// it is not called.
	OnStart func(id string, resumed bool)
	// SingleOrders puts tasks without a batch into the lane of single orders, and not into that
	// of files: for an input of orders that somebody gives one by one.
	SingleOrders bool
	// Linger is how long an item waits for others, which then go to Redis together with
	// it. A full chunk does not wait. Default 100 ms.
	Linger time.Duration
	// Timeout is how long Redis may fail to accept a chunk, all retries included.
	// Default 10 s.
	Timeout time.Duration
}

// InputError means that the input itself has failed and was not read to its end.
// The items before the error are enqueued.
type InputError struct{ Err error }

// Error implements error.
func (e *InputError) Error() string { return "the input: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *InputError) Unwrap() error { return e.Err }

// Item is what became of one item of the input.
type Item struct {
	// Number counts the items from 0.
	Number int64
	// Task is nil if the item is not a task.
	Task tasks.Task
	// ID is the asynq task ID; empty if the item was rejected or skipped.
	ID     string
	Status Status
	// RunAt is the time from which the task may run, as in Result; zero if the item was
	// rejected or skipped.
	RunAt time.Time
	// Err says why the item was rejected.
	Err error
}

// BulkResult counts the items by status. Total is the sum of the other counts.
type BulkResult struct {
	// Batch is the batch's ID; empty without a batch.
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
	// writers is how many chunks are written at a time: while Redis works on some,
	// others are encoded or marked. With four, Redis idles a fifth of its time.
	writers = 12
	// readAhead is how many items may be read before a writer takes them.
	readAhead = 2 * batch.ChunkSize
	// stopTimeout is how long the writing of chunks may take after ctx has ended.
	stopTimeout = 1500 * time.Millisecond
)

// Bulk enqueues all tasks of an input, hundreds in one exchange with Redis, in
// bounded memory. An error of the input that is a *records.LineError or a
// *tasks.FieldError rejects that item, and the next items follow. Any other error of
// the input ends the bulk with an *InputError.
//
// A task that is a tasks.Timed runs from its own time on, and the options In and At do not
// count for it. A resumed batch does not change the time of a task that it has.
//
// A bulk with a batch that was interrupted is resumed by calling Bulk again with
// the same batch and the same input: items that the batch has are skipped. Another
// input is a *batch.InputError. Without a batch, an item whose task is outstanding
// is a duplicate.
//
// If Redis loses tasks before the end of the bulk, in a failover or in a restart
// without persistence, the error is a *batch.DataLossError. Call Bulk again with the
// same input to enqueue them. What is lost later is not noticed, unless there is a
// batch: its audit shows it.
//
// When ctx ends, chunks that are being written are finished, which takes two
// seconds at most. The error is then ctx's, and the result says what was done. If
// the input blocks, Bulk returns without waiting for it.
func (c *Client) Bulk(ctx context.Context, input iter.Seq2[tasks.Task, error], o BulkOptions) (BulkResult, error) {
	opts, err := buildOptions(c.now(), o.Options)
	if err != nil {
		return BulkResult{}, err
	}
	o.Timeout, o.Linger = cmp.Or(o.Timeout, 10*time.Second), cmp.Or(o.Linger, 100*time.Millisecond)
	lane := opts.lane
	if !o.SingleOrders {
		lane = cmp.Or(lane, tasks.LaneBulk)
	}
	ctx, span, headers := c.startBulkSpan(ctx)
	b := &bulk{client: c, store: batch.NewStore(c.rdb), o: o, noGuard: opts.noGuard, deadline: opts.deadline, anyID: opts.anyID, lane: lane, headers: headers, losses: newLossCheck(c.rdb)}
	err = b.run(ctx, input)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	endBulkSpan(span, b.result, err)
	return b.result, err
}

// EnqueueReleases enqueues the releases of a sweep as a batch of their own. It
// returns those that are enqueued, even with an error.
func (c *Client) EnqueueReleases(ctx context.Context, batchID string, releases iter.Seq2[tasks.Task, error]) (enqueued []tasks.Task, err error) {
	_, err = c.Bulk(ctx, releases, BulkOptions{
		Batch:   &batch.Spec{ID: batchID},
		Options: []Option{AllowAnyID()}, // the ids were checked where the locks came from
		OnItem: func(item Item) {
			if item.Status == Enqueued {
				enqueued = append(enqueued, item.Task)
			}
		},
	})
	return enqueued, err
}

// bulk is one call of Bulk.
type bulk struct {
	client   *Client
	store    *batch.Store
	o        BulkOptions
	noGuard  bool
	deadline time.Time
	anyID    bool
	lane     tasks.Lane // of a batch only once it is open
	headers  map[string]string
	losses   *lossCheck // of a bulk without a batch; a batch has fences

	mu     sync.Mutex // guards result and the calls of OnItem
	result BulkResult
	ended  bool // nothing more is counted or reported
}

// run starts a goroutine that reads the input, some that write chunks, and cuts
// the input into chunks itself.
func (b *bulk) run(ctx context.Context, input iter.Seq2[tasks.Task, error]) error {
	reading, stopReading := context.WithCancelCause(ctx)
	defer stopReading(nil)
	// Writing continues for a while after ctx has ended, so that the result says what
	// was done.
	writing, stopWriting := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWriting()
	defer context.AfterFunc(reading, func() { time.AfterFunc(stopTimeout, stopWriting) })()

	parts := make(chan chunkPart)
	var running sync.WaitGroup
	for range writers {
		running.Go(func() {
			w := chunkWriter{bulk: b, capture: asynqx.NewScriptCapture(b.client.rdb)}
			for part := range parts {
				if err := w.writeChunk(writing, part); err != nil {
					stopReading(err)
				}
			}
		})
	}
	c := chunker{bulk: b, parts: parts}
	err := c.run(reading, writing, b.readInput(reading, input))
	close(parts)
	running.Wait()
	if cause := context.Cause(reading); cause != nil {
		return withContextError(ctx, cause)
	}
	if err != nil {
		return err
	}
	if !b.batched() {
		return b.finish(ctx, b.losses.check)
	}
	if err := b.openBatch(ctx); err != nil { // it is not open yet if the input is empty
		return err
	}
	id := b.result.Batch
	return b.finish(ctx, func(ctx context.Context) error { return b.store.CloseInput(ctx, id, c.itemsRead) })
}

// finish calls the last step of a bulk, and again while Redis fails. It returns as
// soon as ctx ends.
func (b *bulk) finish(ctx context.Context, step func(context.Context) error) error {
	return b.withRetry(ctx, func(ctx context.Context) error {
		_, err := cancelable.Call(ctx, func() (struct{}, error) { return struct{}{}, step(ctx) })
		return err
	})
}

func (b *bulk) batched() bool { return b.o.Batch != nil }

// openBatch makes the batch, or finds it, unless that was done before. It is
// called when there is something to put into the batch, so that an input that
// cannot be read leaves no batch.
func (b *bulk) openBatch(ctx context.Context) error {
	if b.result.Batch != "" {
		return nil
	}
	spec := *b.o.Batch
	spec.NoGuard = b.noGuard
	resumed := false
	err := b.withRetry(ctx, func(ctx context.Context) error {
		type opened struct {
			id      string
			resumed bool
			lane    tasks.Lane
		}
		o, err := cancelable.Call(ctx, func() (o opened, err error) {
			if spec.Lane, err = b.client.laneOfBatch(ctx, b.lane); err != nil {
				return o, err
			}
			if o.id, o.resumed, err = b.store.Open(ctx, spec); err != nil {
				return o, err
			}
			o.lane, err = b.store.Lane(ctx, o.id)
			return o, err
		})
		if err == nil {
			b.result.Batch, resumed, b.lane = o.id, o.resumed, o.lane
		}
		return err
	})
	if err == nil && b.o.OnStart != nil {
		b.o.OnStart(b.result.Batch, resumed)
	}
	return err
}

// reportAll reports the entries whose status is known and was not reported yet.
func (b *bulk) reportAll(entries []entry) {
	for _, e := range entries {
		if e.Status != "" && e.Status != Rejected {
			b.report(e.Item)
		}
	}
}

// report counts an item whose status is known, and calls OnItem.
func (b *bulk) report(item Item) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended { // the goroutine that reads the input may outlive the bulk
		return
	}
	b.result.count(item.Status)
	if b.o.OnItem != nil {
		b.o.OnItem(item)
	}
}
