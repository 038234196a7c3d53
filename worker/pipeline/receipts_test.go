package pipeline

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// slowLedger takes a second for each exchange, and fails the first few.
type slowLedger struct {
	mu        sync.Mutex
	failures  int
	exchanges int
	recorded  map[tasks.BatchRef]int
}

func (l *slowLedger) RecordOutcomes(ctx context.Context, receipts []tasks.Receipt) (completed []string, err error) {
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.exchanges++
	if l.failures > 0 {
		l.failures--
		return nil, errors.New("Redis is away")
	}
	for _, r := range receipts {
		l.recorded[r.BatchRef]++
	}
	return []string{receipts[0].Batch}, nil
}

func TestReceiptBatcher_WritesConcurrentReceiptsTogether(t *testing.T) {
	t.Parallel()
	for _, failures := range []int{0, 2} {
		synctest.Test(t, func(t *testing.T) {
			ledger := &slowLedger{failures: failures, recorded: map[tasks.BatchRef]int{}}
			completed := 0
			b := NewReceiptBatcher(ledger, func(...string) { ledger.mu.Lock(); completed++; ledger.mu.Unlock() })
			var wg sync.WaitGroup
			const n = 200
			for i := range n {
				wg.Go(func() {
					ref := tasks.BatchRef{Batch: fmt.Sprint("batch-", i%2), Index: int64(i)}
					if err := b.Record(t.Context(), tasks.Receipt{BatchRef: ref}); err != nil {
						t.Errorf("receipt %d: %v", i, err)
					}
				})
			}
			wg.Wait()
			if len(ledger.recorded) != n || completed == 0 {
				t.Errorf("%d receipts are recorded, and %d completions; want %d, and some", len(ledger.recorded), completed, n)
			}
			if most := 4 + 3*failures; ledger.exchanges > most {
				t.Errorf("%d exchanges for two batches; want at most %d", ledger.exchanges, most)
			}
		})
	}
}

func TestReceiptBatcher_EndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ledger := &slowLedger{failures: 1 << 30, recorded: map[tasks.BatchRef]int{}}
		b := NewReceiptBatcher(ledger, func(...string) {})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		begin := time.Now()
		if err := b.Record(ctx, tasks.Receipt{BatchRef: tasks.BatchRef{Batch: "b"}}); err == nil {
			t.Error("no error, though nothing was recorded")
		}
		if took := time.Since(begin); took < 9*time.Second || took > 10*time.Second {
			t.Errorf("it has tried for %s; want until its context ended", took)
		}
		time.Sleep(time.Second) //nolint:forbidigo // in a synctest bubble: the exchange under way ends
	})
}
