package enqueue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/enqueue/records"
	"github.com/kooworker/kooworker/tasks"
)

// entry is an item on its way.
type entry struct {
	number int64
	index  int64       // in the batch
	state  batch.State // in the batch, before
	task   tasks.Task  // nil if it was rejected
	id     string
	status Status // "" until it is known
	err    error  // why it was rejected
}

// job is what a worker is to do: some entries of one chunk.
type job struct {
	chunk   batch.Chunk
	entries []entry
}

// feeder cuts the input into chunks, claims them for the batch, one after the
// other so that the indexes follow the input, and hands them to the workers.
type feeder struct {
	bulk *bulk
	jobs chan<- job

	roll    batch.RollingDigest
	chunk   batch.Chunk    // the current one, as it was claimed last
	read    int64          // items so far
	digests []batch.Digest // after each item of the current chunk
	waiting []entry        // the last items of the chunk, which are still to be handed over
	need    int            // items of the chunk that the ledger must know to tell
}

// all feeds the whole input. When it returns an error of reading's, that is its
// cause.
func (f *feeder) all(reading, working context.Context, items <-chan raw) error {
	tick := time.NewTicker(idle)
	defer tick.Stop()
	seen := int64(0) // at the last tick
	for {
		select {
		case <-reading.Done():
			return context.Cause(reading)
		case item, more := <-items:
			if !more {
				if reading.Err() != nil { // which is why there is no more
					return context.Cause(reading)
				}
				return f.end(working)
			}
			if item.err != nil && !rejectable(item.err) {
				if errors.Is(item.err, context.Canceled) || errors.Is(item.err, context.DeadlineExceeded) {
					return item.err // the input ends with the same context, and was faster
				}
				// What came before it is good.
				if err := f.flush(working); err != nil {
					return err
				}
				return &InputError{item.err}
			}
			f.add(item)
			if len(f.digests) < batch.ChunkSize {
				continue
			}
			if err := f.flush(working); err != nil {
				return err
			}
			f.digests, f.need = f.digests[:0], 0
		case <-tick.C:
			if f.read == seen {
				if err := f.flush(working); err != nil {
					return err
				}
			}
			seen = f.read
		}
	}
}

func (f *feeder) add(item raw) {
	e := entry{number: f.read, task: item.task, err: item.err}
	if e.err == nil {
		e.err = e.task.Validate()
	}
	if e.err != nil {
		e.task, e.status = nil, Rejected
		f.roll.AddRejected(textOf(item))
	} else {
		f.roll.AddTask(e.task)
	}
	f.read++
	f.waiting = append(f.waiting, e)
	f.digests = append(f.digests, f.roll.Digest())
}

// textOf is what tells a rejected item from others.
func textOf(item raw) string {
	if line, ok := errors.AsType[*records.LineError](item.err); ok {
		return line.Text
	}
	return fmt.Sprintf("%v %v", item.task, item.err)
}

// end hands over what is left.
func (f *feeder) end(working context.Context) error {
	if err := f.flush(working); err != nil {
		return err
	}
	if f.need > len(f.digests) {
		return &batch.InputError{ID: f.bulk.result.Batch, First: f.read + 1, Problem: "this one is shorter"}
	}
	return nil
}

// flush hands over what waits, unless the ledger must know more first.
func (f *feeder) flush(working context.Context) error {
	if len(f.waiting) == 0 || f.need > len(f.digests) {
		return nil
	}
	if f.bulk.batched() {
		if err := f.bulk.open(working); err != nil {
			return err
		}
		claimed, err := f.claim(working)
		if err != nil || f.need > len(f.digests) {
			return err
		}
		f.chunk = claimed
		first := len(f.digests) - len(f.waiting)
		for i := range f.waiting {
			f.waiting[i].index, f.waiting[i].state = claimed.Index(first+i), claimed.State(first+i)
		}
	}
	select {
	case f.jobs <- job{f.chunk, f.waiting}:
		f.waiting = nil // it is the worker's now
		return nil
	case <-working.Done():
		return working.Err()
	}
}

// claim claims what is known of the current chunk.
func (f *feeder) claim(working context.Context) (batch.Chunk, error) {
	type claim struct {
		batch.Chunk
		need int
	}
	var c claim
	number, digests := (f.read-1)/batch.ChunkSize, slices.Clone(f.digests)
	err := f.bulk.patiently(working, func(ctx context.Context) (err error) {
		c, err = underContext(ctx, func() (c claim, err error) {
			c.Chunk, c.need, err = f.bulk.store.Claim(ctx, f.bulk.result.Batch, number, digests)
			return c, err
		})
		return err
	})
	f.need = c.need
	return c.Chunk, err
}
