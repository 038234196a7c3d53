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

// lookupBatcher looks up the locks of concurrent releases together. A list that
// fails is not asked again for a while; then one query tries it. While that query
// is under way other lookups fail at once, since the answer of a list that hangs
// takes long.
type lookupBatcher struct {
	list    source.Source
	group   *groupcommit.Group[struct{}, tasks.LockID, source.LockState]
	breaker *gobreaker.CircuitBreaker[[]source.LockState]

	mu         sync.Mutex
	unanswered int   // lookups whose query has not ended
	failure    error // of the last query; nil if it was answered
}

const (
	maxLookups    = 100 // in one query
	lookupTimeout = 30 * time.Second
	// listCooldown is how long a list that has failed is not asked.
	listCooldown = 5 * time.Second
)

var errCoolingDown = errors.New("the source has failed and is not asked again for a moment")

func newLookupBatcher(list source.Source) *lookupBatcher {
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
