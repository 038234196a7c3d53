package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
)

// errAway is the error of a Redis that is away.
var errAway error = &net.OpError{Op: "dial", Err: errors.New("no Redis")}

// slowStore takes a second for each exchange, and the first few fail.
type slowStore struct {
	mu        sync.Mutex
	failures  int
	failure   error // errAway if it is nil
	exchanges int
	recorded  map[tasks.BatchRef]int
}

func (s *slowStore) RecordOutcomes(ctx context.Context, receipts []tasks.Receipt) (completed, gone []string, err error) {
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exchanges++
	if s.failures > 0 {
		s.failures--
		return nil, nil, cmp.Or(s.failure, errAway)
	}
	for _, r := range receipts {
		s.recorded[r.BatchRef]++
	}
	return []string{receipts[0].Batch}, nil, nil
}

func TestReceiptBatcher_WritesConcurrentReceiptsTogether(t *testing.T) {
	t.Parallel()
	for _, failures := range []int{0, 2} {
		synctest.Test(t, func(t *testing.T) {
			store := &slowStore{failures: failures, recorded: map[tasks.BatchRef]int{}}
			completed := 0
			b := NewReceiptBatcher(store, nil, func(...string) { store.mu.Lock(); completed++; store.mu.Unlock() }, zap.NewNop())
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
			if len(store.recorded) != n || completed == 0 {
				t.Errorf("%d receipts and %d completions; want %d receipts and a completion", len(store.recorded), completed, n)
			}
			if most := 4 + 3*failures; store.exchanges > most {
				t.Errorf("%d exchanges for two batches; want at most %d", store.exchanges, most)
			}
		})
	}
}

func TestReceiptBatcher_EndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &slowStore{failures: 1 << 30, recorded: map[tasks.BatchRef]int{}}
		b := NewReceiptBatcher(store, nil, func(...string) {}, zap.NewNop())
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		begin := time.Now()
		if err := b.Record(ctx, tasks.Receipt{BatchRef: tasks.BatchRef{Batch: "b"}}); err == nil {
			t.Error("no error; want one, since nothing was recorded")
		}
		if took := time.Since(begin); took < 9*time.Second || took > 10*time.Second {
			t.Errorf("it tried for %s; want 10s, when its context ends", took)
		}
		time.Sleep(time.Second) //nolint:forbidigo // in a synctest bubble: the exchange under way ends
	})
}

// The ledger of the batch was written by hand. Tries do not help.
func TestReceiptBatcher_DoesNotRepeatWhatRedisRefuses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &slowStore{failures: 1 << 30, failure: errors.New("hash value is not an integer"), recorded: map[tasks.BatchRef]int{}}
		b := NewReceiptBatcher(store, nil, func(...string) {}, zap.NewNop())
		if err := b.Record(t.Context(), tasks.Receipt{BatchRef: tasks.BatchRef{Batch: "b"}}); !errors.Is(err, store.failure) || store.exchanges != 1 {
			t.Errorf("%v after %d exchanges; want the error after one", err, store.exchanges)
		}
	})
}

// A master of a cluster that is known to be away is not waited for. What is waited for holds
// a place that other tasks need.
func TestReceiptBatcher_SilentMaster(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &slowStore{failures: 100, failure: fmt.Errorf("store receipts: %w", asynqx.ErrNodeSilent), recorded: map[tasks.BatchRef]int{}}
		b := NewReceiptBatcher(store, nil, func(...string) {}, zap.NewNop())
		err := b.Record(t.Context(), tasks.Receipt{BatchRef: tasks.BatchRef{Batch: "b"}})
		if !errors.Is(err, asynqx.ErrNodeSilent) || store.exchanges != 1 {
			t.Errorf("%v after %d exchanges; want ErrNodeSilent after one", err, store.exchanges)
		}
	})
}

// goneStore has no batch.
type goneStore struct{}

func (goneStore) RecordOutcomes(_ context.Context, receipts []tasks.Receipt) (completed, gone []string, err error) {
	return nil, []string{receipts[0].Batch}, nil
}

// If the batch was deleted, the log alone says what became of its tasks.
func TestReceiptBatcher_LogsWhatHasNoReceipt(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.WarnLevel)
	b := NewReceiptBatcher(goneStore{}, nil, func(...string) {}, zap.New(core))
	r := tasks.Receipt{BatchRef: tasks.BatchRef{Batch: "b", Index: 7}, Kind: tasks.KindDeviceUnbind, UserID: "u", Target: "d", Outcome: tasks.Succeeded, Reason: tasks.OK}
	if err := b.Record(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	lines := logs.FilterMessageSnippet("no receipt").All()
	if len(lines) != 1 || lines[0].ContextMap()["target"] != "d" || lines[0].ContextMap()["outcome"] != "succeeded" || lines[0].ContextMap()["batch"] != "b" {
		t.Errorf("%v; want one line that says what became of the device", lines)
	}
}
