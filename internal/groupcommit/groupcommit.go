// Package groupcommit carries out the requests of concurrent callers together. While
// one commit is under way the next items gather, and go together in the next commit.
// A lone caller does not wait for others, and many callers need few commits.
//
// The worker uses it to write receipts, one key a batch, to look up locks, and to send
// asynq's scripts. It knows nothing of these, and imports the standard library only.
package groupcommit

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Group gathers items of type T and commits them, each key's on their own: a
// commit that is slow or fails for one key does not hold up another. R is the
// result for one item. A Group is safe for concurrent use. It has a goroutine for
// a key only while items of that key wait, and for the pause of Paced after them.
type Group[K comparable, T, R any] struct {
	limit  int
	pause  time.Duration // see Paced
	commit func(ctx context.Context, key K, items []T) ([]R, error)

	mu sync.Mutex
	// waiting has a key while its goroutine runs, even if no item waits.
	waiting map[K][]*request[T, R]
}

type request[T, R any] struct {
	item   T
	result R
	err    error
	done   chan struct{} // closed when result and err are set
}

// New returns a Group that commits at most limit items at once; limit is at least 1.
// One call of commit is under way for a key at a time. It returns one result for
// each item, in their order, or nil if there is nothing to tell; an error is the
// answer to all of the items. Its context has the values of one of the callers'
// contexts, but does not end with it: commit sets its own time limit.
func New[K comparable, T, R any](limit int, commit func(ctx context.Context, key K, items []T) ([]R, error)) *Group[K, T, R] {
	return &Group[K, T, R]{limit: limit, commit: commit, waiting: make(map[K][]*request[T, R])}
}

// Paced makes the commits of a key begin at least this long after each other. So more items
// gather, and each of them costs less. A lone caller does not wait. It is called before Do.
func (g *Group[K, T, R]) Paced(pause time.Duration) *Group[K, T, R] {
	g.pause = pause
	return g
}

// Do commits an item together with others of its key, and returns its result. If
// ctx ends first Do returns ctx's error; the item may be committed all the same.
func (g *Group[K, T, R]) Do(ctx context.Context, key K, item T) (R, error) {
	r := &request[T, R]{item: item, done: make(chan struct{})}
	g.mu.Lock()
	waiting, running := g.waiting[key]
	g.waiting[key] = append(waiting, r)
	g.mu.Unlock()
	if !running {
		go g.run(context.WithoutCancel(ctx), key)
	}
	select {
	case <-r.done:
		return r.result, r.err
	case <-ctx.Done():
		var none R
		return none, ctx.Err()
	}
}

// run commits the items of a key until none waits.
func (g *Group[K, T, R]) run(ctx context.Context, key K) {
	for requests := g.next(key); len(requests) > 0; requests = g.next(key) {
		var next <-chan time.Time
		if g.pause > 0 {
			next = time.After(g.pause)
		}
		items := make([]T, len(requests))
		for i, r := range requests {
			items[i] = r.item
		}
		results, err := g.commit(ctx, key, items)
		if err == nil && results != nil && len(results) != len(items) {
			err = fmt.Errorf("%d results for %d items", len(results), len(items))
		}
		for i, r := range requests {
			if r.err = err; err == nil && results != nil {
				r.result = results[i]
			}
			close(r.done)
		}
		if next != nil {
			<-next
		}
	}
}

// next takes the items of the next commit. If there are none it removes the key.
func (g *Group[K, T, R]) next(key K) []*request[T, R] {
	g.mu.Lock()
	defer g.mu.Unlock()
	waiting := g.waiting[key]
	if len(waiting) == 0 {
		delete(g.waiting, key)
		return nil
	}
	n := min(len(waiting), g.limit)
	g.waiting[key] = waiting[n:]
	return waiting[:n]
}
