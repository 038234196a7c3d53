package locks

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/kooworker/kooworker/internal/groupcommit"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/locks/source"
)

// lookupBatcher looks up the locks of concurrent releases together. If a list fails,
// it gets no query for a while, and then a single one. While that query is under
// way, other lookups fail at once: a list that hangs takes long to answer.
type lookupBatcher struct {
	list    source.List
	group   *groupcommit.Group[struct{}, tasks.LockID, source.LockState]
	breaker *gobreaker.CircuitBreaker[[]source.LockState]

	mu         sync.Mutex
	unanswered int   // lookups whose query has not ended
	failure    error // of the last query; nil if that succeeded
}

const (
	maxLookups    = 100 // in one query
	lookupTimeout = 30 * time.Second
	// listCooldown is how long a list gets no query after a failure.
	listCooldown = 5 * time.Second
)

var errCoolingDown = errors.New("the source has failed and gets no query for a moment")

func newLookupBatcher(list source.List) *lookupBatcher {
	b := &lookupBatcher{list: list, breaker: gobreaker.NewCircuitBreaker[[]source.LockState](gobreaker.Settings{
		Name:        string(list.Kind()),
		Timeout:     listCooldown,
		ReadyToTrip: func(gobreaker.Counts) bool { return true }, // a failure is about the list, not about a lock
	})}
	b.group = groupcommit.New(maxLookups, b.query)
	return b
}

// lookup returns the present state of a lock.
func (b *lookupBatcher) lookup(ctx context.Context, id tasks.LockID) (source.LockState, error) {
	if err := b.admit(); err != nil {
		return source.LockState{}, err
	}
	return b.group.Do(ctx, struct{}{}, id)
}

// admit refuses a lookup while a query tries a list that has failed.
func (b *lookupBatcher) admit() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.unanswered > 0 && b.failure != nil {
		return fmt.Errorf("%w: %w", errCoolingDown, b.failure)
	}
	b.unanswered++
	return nil
}

// query looks up some locks in the list.
func (b *lookupBatcher) query(ctx context.Context, _ struct{}, ids []tasks.LockID) ([]source.LockState, error) {
	states, err := b.breaker.Execute(func() ([]source.LockState, error) {
		ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
		defer cancel()
		return b.list.Lookup(ctx, ids)
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unanswered -= len(ids)
	if errors.Is(err, gobreaker.ErrOpenState) {
		return nil, fmt.Errorf("%w: %w", errCoolingDown, b.failure)
	}
	b.failure = err
	return states, err
}
