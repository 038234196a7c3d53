package pipeline

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/kooworker/kooworker/internal/groupcommit"
	"github.com/kooworker/kooworker/tasks"
)

// Ledger is where receipts are kept. *batch.Store is one.
type Ledger interface {
	// RecordOutcomes notes what became of tasks, and returns the batches that are
	// complete by it. To record an outcome twice is to record it once.
	RecordOutcomes(ctx context.Context, receipts []tasks.Receipt) (completed []string, err error)
}

// ReceiptBatcher writes the receipts of concurrent tasks together: while one
// exchange with the ledger is under way, the next receipts gather. Each batch has
// exchanges of its own, so that trouble with one does not hold up the others.
type ReceiptBatcher struct {
	group *groupcommit.Group[string, tasks.Receipt, struct{}]
}

var _ Receipts = (*ReceiptBatcher)(nil)

const (
	receiptsTogether = 500             // receipts in one exchange
	exchangeTimeout  = 5 * time.Second // of one exchange
)

// NewReceiptBatcher returns a ReceiptBatcher over a ledger. completed is called
// with the batches that receipts have completed; it must not block.
func NewReceiptBatcher(ledger Ledger, completed func(ids ...string)) *ReceiptBatcher {
	commit := func(ctx context.Context, _ string, receipts []tasks.Receipt) ([]struct{}, error) {
		ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
		defer cancel()
		batches, err := ledger.RecordOutcomes(ctx, receipts)
		if len(batches) > 0 {
			completed(batches...)
		}
		return make([]struct{}, len(receipts)), err
	}
	return &ReceiptBatcher{group: groupcommit.New(receiptsTogether, commit)}
}

// Record implements Receipts. It tries until ctx ends: KooDrive has answered, and
// a receipt that says so is worth waiting for. When ctx ends, the receipt may be
// written all the same.
func (b *ReceiptBatcher) Record(ctx context.Context, r tasks.Receipt) error {
	pause := backoff.NewExponentialBackOff(backoff.WithInitialInterval(100*time.Millisecond), backoff.WithMaxInterval(2*time.Second), backoff.WithMaxElapsedTime(0))
	return backoff.Retry(func() error {
		_, err := b.group.Do(ctx, r.Batch, r)
		return err
	}, backoff.WithContext(pause, ctx))
}
