package worker

import (
	"context"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// Ledger keeps account of batches, and owes a receipt to each of their tasks.
// The ledger is in package enqueue/batch, where producers find it too.
type Ledger interface {
	// RecordOutcomes notes what became of tasks, and returns the batches that are
	// complete by it. To settle twice is to settle once.
	RecordOutcomes(ctx context.Context, receipts []tasks.Receipt) (completed []string, err error)
	// Announce calls tell for each batch that is complete, again if it fails, the
	// process dies, or another worker is at it. It returns those of which no other
	// worker can say that it has told.
	DrainCompleted(ctx context.Context, tell func(context.Context, tasks.BatchStats) error) (told []tasks.BatchStats, err error)
	// Show returns how a batch stands.
	Show(ctx context.Context, id string) (tasks.BatchStats, error)
}

// settler settles the receipts of concurrent tasks together: while one exchange
// with the ledger is under way, the next receipts gather. Each batch has its own
// lane, so that trouble with one does not hold up the others.
type settler struct {
	ledger    Ledger
	completed func() // called when a batch is complete

	mu    sync.Mutex
	lanes map[string]*lane
}

type lane struct {
	waiting []settlement
}

type settlement struct {
	receipt tasks.Receipt
	done    chan error // with room for one
}

var _ pipeline.Ledger = (*settler)(nil)

func newSettler(ledger Ledger, completed func()) *settler {
	return &settler{ledger: ledger, completed: completed, lanes: make(map[string]*lane)}
}

const (
	settleTogether = 500             // receipts in one exchange
	settleTimeout  = 5 * time.Second // of one exchange
)

// Settle implements pipeline.Ledger. It tries until ctx ends: KooDrive has
// answered, and a receipt that says so is worth waiting for.
func (s *settler) Settle(ctx context.Context, r tasks.Receipt) error {
	pause := backoff.NewExponentialBackOff(backoff.WithInitialInterval(100*time.Millisecond), backoff.WithMaxInterval(2*time.Second), backoff.WithMaxElapsedTime(0))
	return backoff.Retry(func() error { return s.once(ctx, r) }, backoff.WithContext(pause, ctx))
}

func (s *settler) once(ctx context.Context, r tasks.Receipt) error {
	mine := settlement{receipt: r, done: make(chan error, 1)}
	s.mu.Lock()
	l := s.lanes[r.Batch]
	if l == nil {
		l = &lane{}
		s.lanes[r.Batch] = l
		go s.drain(context.WithoutCancel(ctx), r.Batch, l)
	}
	l.waiting = append(l.waiting, mine)
	s.mu.Unlock()
	select {
	case err := <-mine.done:
		return err
	case <-ctx.Done():
		return ctx.Err() // it may be settled all the same
	}
}

// drain settles what waits in a lane until nothing does.
func (s *settler) drain(ctx context.Context, batch string, l *lane) {
	for {
		s.mu.Lock()
		n := min(len(l.waiting), settleTogether)
		together := l.waiting[:n:n]
		l.waiting = l.waiting[n:]
		if n == 0 {
			delete(s.lanes, batch)
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()

		receipts := make([]tasks.Receipt, n)
		for i, each := range together {
			receipts[i] = each.receipt
		}
		limited, cancel := context.WithTimeout(ctx, settleTimeout)
		completed, err := s.ledger.RecordOutcomes(limited, receipts)
		cancel()
		for _, each := range together {
			each.done <- err
		}
		if len(completed) > 0 {
			s.completed()
		}
	}
}
