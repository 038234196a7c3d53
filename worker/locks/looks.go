package locks

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/locks/source"
)

// looks gathers the looks of concurrent releases: while the list is asked about
// some locks the next ones gather, and are asked about together. Where the list
// fails it is left alone for a while, and then one question is tried: nobody else
// waits for its answer, which takes long from a list that hangs.
type looks struct {
	list    source.Source
	breaker *gobreaker.CircuitBreaker[[]source.LockState]

	mu      sync.Mutex
	busy    bool
	waiting []look
	failed  error // what the list said last; nil if it answered
}

type look struct {
	name tasks.LockID
	done chan lookAnswer // with room for one
}

type lookAnswer struct {
	sight source.LockState
	err   error
}

const (
	looksTogether = 100              // locks in one question
	lookTimeout   = 30 * time.Second // of one question
	// lookPause is how long a list that has failed is left alone.
	lookPause = 5 * time.Second
)

func newLooks(list source.Source) *looks {
	return &looks{list: list, breaker: gobreaker.NewCircuitBreaker[[]source.LockState](gobreaker.Settings{
		Name:        string(list.Kind()),
		Timeout:     lookPause,
		ReadyToTrip: func(gobreaker.Counts) bool { return true }, // a failure hits every lock alike
	})}
}

// at says how a lock is now.
func (l *looks) at(ctx context.Context, name tasks.LockID) (source.LockState, error) {
	mine := look{name, make(chan lookAnswer, 1)}
	l.mu.Lock()
	if l.busy && l.failed != nil {
		defer l.mu.Unlock()
		return source.LockState{}, leftAlone(l.failed)
	}
	l.waiting = append(l.waiting, mine)
	if !l.busy {
		l.busy = true
		go l.drain(context.WithoutCancel(ctx))
	}
	l.mu.Unlock()
	select {
	case a := <-mine.done:
		return a.sight, a.err
	case <-ctx.Done():
		return source.LockState{}, ctx.Err()
	}
}

// drain asks until nobody waits.
func (l *looks) drain(ctx context.Context) {
	for {
		l.mu.Lock()
		n := min(len(l.waiting), looksTogether)
		together := l.waiting[:n:n]
		l.waiting = l.waiting[n:]
		if l.busy = n > 0; !l.busy {
			l.mu.Unlock()
			return
		}
		failed := l.failed
		l.mu.Unlock()

		names := make([]tasks.LockID, n)
		for i, each := range together {
			names[i] = each.name
		}
		sights, err := l.breaker.Execute(func() ([]source.LockState, error) {
			limited, cancel := context.WithTimeout(ctx, lookTimeout)
			defer cancel()
			return l.list.Lookup(limited, names)
		})
		if errors.Is(err, gobreaker.ErrOpenState) {
			err = leftAlone(failed)
		} else {
			l.mu.Lock()
			l.failed = err
			l.mu.Unlock()
		}
		for i, each := range together {
			a := lookAnswer{err: err}
			if err == nil {
				a.sight = sights[i]
			}
			each.done <- a
		}
	}
}

func leftAlone(failed error) error {
	return fmt.Errorf("it is left alone for a moment since it has failed: %w", failed)
}
