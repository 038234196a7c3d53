package enqueue

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/cancelable"
)

// entry is an item on its way to Redis. Its Status is "" until it is known. A
// rejected item was reported already, and has only its number and its status.
type entry struct {
	Item

	due   time.Time   // the item's own time to run, zero if it has none
	index int64       // in the batch
	state batch.State // in the batch, when its chunk was claimed
}

// chunkPart holds some entries of one chunk, which one writer writes.
type chunkPart struct {
	chunk   batch.Chunk
	entries []entry
}

// chunker cuts the input into chunks and claims them for the batch. It claims one
// chunk after the other, so that the indexes follow the order of the input. Then
// it hands the chunks to the writers. A chunk that is slow to fill is handed over
// in parts.
type chunker struct {
	bulk  *bulk
	parts chan<- chunkPart

	itemsRead int64
	digests   []batch.Digest // after each item of the current chunk
	pending   []entry        // the last items of the chunk, which were not handed over yet
	need      int            // items of the chunk that must be read before the ledger can compare them
}

// run cuts up the whole input. If reading ends first, it returns the cause of that.
func (c *chunker) run(reading, writing context.Context, items <-chan readItem) error {
	var lingered <-chan time.Time // nil while no item waits
	for {
		select {
		case <-reading.Done():
			return context.Cause(reading)
		case item, more := <-items:
			if !more {
				if reading.Err() != nil { // the channel was closed because reading has ended
					return context.Cause(reading)
				}
				return c.end(writing)
			}
			if item.end != nil {
				if errors.Is(item.end, context.Canceled) || errors.Is(item.end, context.DeadlineExceeded) {
					return item.end // the input has noticed first that its context, which is ours, has ended
				}
				// The items before the error are good.
				if err := c.flush(writing); err != nil {
					return err
				}
				return &InputError{item.end}
			}
			c.add(item)
			if len(c.digests) < batch.ChunkSize {
				if lingered == nil {
					lingered = time.After(c.bulk.o.Linger)
				}
				continue
			}
			if err := c.flush(writing); err != nil {
				return err
			}
			c.digests, c.need, lingered = c.digests[:0], 0, nil
		case <-lingered:
			lingered = nil
			if err := c.flush(writing); err != nil {
				return err
			}
		}
	}
}

func (c *chunker) add(item readItem) {
	c.itemsRead++
	c.pending = append(c.pending, entry{Item: item.Item, due: item.due})
	c.digests = append(c.digests, item.digest)
}

// end hands over the last items.
func (c *chunker) end(writing context.Context) error {
	if err := c.flush(writing); err != nil {
		return err
	}
	if c.need > len(c.digests) {
		return &batch.InputError{ID: c.bulk.result.Batch, First: c.itemsRead + 1, Problem: "this one is shorter"}
	}
	return nil
}

// flush claims the pending items and hands them over. It waits for more items if
// the ledger needs more of them to compare the input.
func (c *chunker) flush(writing context.Context) error {
	if len(c.pending) == 0 || c.need > len(c.digests) {
		return nil
	}
	var chunk batch.Chunk
	if c.bulk.batched() {
		if err := c.bulk.openBatch(writing); err != nil {
			return err
		}
		var err error
		if chunk, err = c.claim(writing); err != nil || c.need > len(c.digests) {
			return err
		}
		first := len(c.digests) - len(c.pending)
		for i := range c.pending {
			c.pending[i].index, c.pending[i].state = chunk.Index(first+i), chunk.State(first+i)
		}
	}
	select {
	case c.parts <- chunkPart{chunk, c.pending}:
		c.pending = nil // the writer owns the entries now
		return nil
	case <-writing.Done():
		return writing.Err()
	}
}

// claim claims the items of the current chunk that were read so far. It sets need.
func (c *chunker) claim(writing context.Context) (batch.Chunk, error) {
	var chunk batch.Chunk
	number, digests := (c.itemsRead-1)/batch.ChunkSize, slices.Clone(c.digests)
	err := c.bulk.withRetry(writing, func(ctx context.Context) (err error) {
		chunk, err = cancelable.Call(ctx, func() (batch.Chunk, error) {
			return c.bulk.store.ClaimChunk(ctx, c.bulk.result.Batch, number, digests)
		})
		return err
	})
	c.need = chunk.Need
	return chunk, err
}
