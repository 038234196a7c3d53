package pipeline

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/groupcommit"
	"github.com/kooworker/kooworker/tasks"
)

// ReceiptStore stores receipts. *batch.Store is one.
type ReceiptStore interface {
	// RecordOutcomes stores the receipts of tasks. It returns the batches that this has
	// completed, and those that are gone, so that their receipts are not stored. A
	// receipt that is stored already changes nothing.
	RecordOutcomes(ctx context.Context, receipts []tasks.Receipt) (completed, gone []string, err error)
}

// SingleStore stores the receipts of tasks outside any batch.
type SingleStore func(ctx context.Context, receipts []tasks.Receipt) error

// ReceiptBatcher writes the receipts of concurrent tasks together: while one
// exchange with the store is under way, it collects the receipts for the next. Each
// batch has its own exchanges, so that a batch that fails does not delay the others, and
// so have the tasks outside any batch.
type ReceiptBatcher struct {
	batches *groupcommit.Group[string, tasks.Receipt, struct{}]
	singles *groupcommit.Group[struct{}, tasks.Receipt, struct{}] // nil: those outside any batch get none
}

var _ Receipts = (*ReceiptBatcher)(nil)

const (
	receiptsTogether = 500             // receipts in one exchange
	exchangeTimeout  = 5 * time.Second // of one exchange
	// singlesPause is the time between two exchanges for tasks outside any batch. It makes
	// a receipt cheap: see docs/performance.md.
	singlesPause = 2 * time.Millisecond
)

// NewReceiptBatcher returns a ReceiptBatcher over a store. It calls completed with
// the batches that receipts have completed; completed must not block. A receipt whose
// batch is gone is written to the log: nothing else says what became of the task. If
// singles is nil, tasks outside any batch get no receipts.
func NewReceiptBatcher(store ReceiptStore, singles SingleStore, completed func(ids ...string), log *zap.Logger) *ReceiptBatcher {
	commit := func(ctx context.Context, _ string, receipts []tasks.Receipt) ([]struct{}, error) {
		ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
		defer cancel()
		batches, gone, err := store.RecordOutcomes(ctx, receipts)
		if len(batches) > 0 {
			completed(batches...)
		}
		for _, r := range receipts {
			if slices.Contains(gone, r.Batch) {
				log.Warn("no receipt: the batch was deleted or has expired", zap.String("batch", r.Batch), zap.Int64("index", r.Index), zap.String("kind", string(r.Kind)),
					zap.String("user_id", r.UserID), zap.String("target", r.Target), zap.String("outcome", string(r.Outcome)), zap.String("reason", string(r.Reason)))
			}
		}
		return make([]struct{}, len(receipts)), err
	}
	b := &ReceiptBatcher{batches: groupcommit.New(receiptsTogether, commit)}
	if singles != nil {
		b.singles = groupcommit.New(receiptsTogether, func(ctx context.Context, _ struct{}, receipts []tasks.Receipt) ([]struct{}, error) {
			ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
			defer cancel()
			return nil, singles(ctx, receipts)
		}).Paced(singlesPause)
	}
	return b
}

// Record implements Receipts. While Redis is away it tries until ctx ends, so that the
// task need not call KooDrive again for its receipt. It does not wait for a master of a
// cluster that is known to be away: tasks of other batches need the slot. If it returns an
// error, the receipt may have been written nevertheless.
func (b *ReceiptBatcher) Record(ctx context.Context, r tasks.Receipt) error {
	if !r.IsSet() && b.singles == nil {
		return nil
	}
	err := b.try(ctx, r)
	if err == nil || !isWorthRetrying(err) {
		return err
	}
	pause := backoff.NewExponentialBackOff(backoff.WithInitialInterval(100*time.Millisecond), backoff.WithMaxInterval(2*time.Second), backoff.WithMaxElapsedTime(0))
	return backoff.Retry(func() error {
		err := b.try(ctx, r)
		if err != nil && !isWorthRetrying(err) {
			return backoff.Permanent(err)
		}
		return err
	}, backoff.WithContext(pause, ctx))
}

// try writes a receipt once, together with others.
func (b *ReceiptBatcher) try(ctx context.Context, r tasks.Receipt) (err error) {
	if r.IsSet() {
		_, err = b.batches.Do(ctx, r.Batch, r)
	} else {
		_, err = b.singles.Do(ctx, struct{}{}, r)
	}
	return err
}

func isWorthRetrying(err error) bool {
	return asynqx.IsUnavailable(err) && !errors.Is(err, asynqx.ErrNodeSilent)
}
