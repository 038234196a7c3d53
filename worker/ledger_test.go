package worker_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker"
)

// memoryLedger is a ledger for tests of the worker: the first outcome of each
// place stays, and a batch is complete when it has as many as it was told.
type memoryLedger struct {
	mu       sync.Mutex
	fail     int // so many calls
	calls    int
	outcomes map[tasks.BatchRef]tasks.Receipt
	size     map[string]int
	told     map[string]bool
}

var _ worker.Ledger = (*memoryLedger)(nil)

func newLedger() *memoryLedger {
	return &memoryLedger{outcomes: map[tasks.BatchRef]tasks.Receipt{}, size: map[string]int{}, told: map[string]bool{}}
}

func (l *memoryLedger) RecordOutcomes(_ context.Context, receipts []tasks.Receipt) (completed []string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	if l.fail > 0 {
		l.fail--
		return nil, errors.New("the ledger is away")
	}
	for _, r := range receipts {
		if _, there := l.outcomes[r.BatchRef]; !there {
			l.outcomes[r.BatchRef] = r
		}
		if l.complete(r.Batch) {
			completed = append(completed, r.Batch)
		}
	}
	return completed, nil
}

func (l *memoryLedger) complete(batch string) bool {
	n := 0
	for place := range l.outcomes {
		if place.Batch == batch {
			n++
		}
	}
	return n == l.size[batch]
}

func (l *memoryLedger) DrainCompleted(ctx context.Context, tell func(context.Context, tasks.BatchStats) error) (told []tasks.BatchStats, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for batch := range l.size {
		if l.told[batch] || !l.complete(batch) {
			continue
		}
		b := tasks.BatchStats{ID: batch, Total: int64(l.size[batch]), Done: true}
		if err := tell(ctx, b); err != nil {
			return told, err
		}
		l.told[batch] = true
		told = append(told, b)
	}
	return told, nil
}

func (l *memoryLedger) Show(_ context.Context, id string) (tasks.BatchStats, error) {
	return tasks.BatchStats{ID: id, Done: true}, nil
}

func (l *memoryLedger) receipts() map[tasks.BatchRef]tasks.Receipt {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.outcomes)
}

// noProducer is for tests in which nothing leads to further tasks.
type noProducer struct{}

var _ worker.Producer = noProducer{}

func (noProducer) Standing(context.Context, tasks.Task, tasks.BatchRef) (tasks.ChildStatus, error) {
	return tasks.ChildStatus{}, errors.New("not in this test")
}

func (noProducer) NextRound(context.Context, tasks.Task, tasks.BatchRef, int, []tasks.Task) error {
	return errors.New("not in this test")
}

func (noProducer) Abandon(context.Context, string) error { return nil }

func (noProducer) Releases(context.Context, string, iter.Seq2[tasks.Task, error]) ([]tasks.Task, error) {
	return nil, errors.New("not in this test")
}

func (noProducer) Forget(context.Context, tasks.Task, tasks.BatchRef) error {
	return errors.New("not in this test")
}

// enqueueInBatch puts a task into a batch, as package enqueue does.
func (b *bundle) enqueueInBatch(task tasks.Task, place tasks.BatchRef) {
	b.t.Helper()
	payload, err := tasks.Encode(task, tasks.Intent{EnqueuedAt: time.Now(), BatchRef: place})
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.client.EnqueueContext(b.t.Context(), asynq.NewTask(string(task.Kind()), payload), asynq.Queue(task.Queue()), asynq.MaxRetry(tasks.MaxRetry)); err != nil {
		b.t.Fatal(err)
	}
}

func TestEachTaskOfABatchGetsItsReceipt(t *testing.T) {
	t.Parallel()
	api := newStandIn(t, func(target string, nth int) reply {
		switch {
		case target == "device-1":
			return gone
		case target == "device-2":
			return forbidden
		case target == "device-3" && nth <= 2:
			return trouble
		case target == "device-4":
			return reply{200, nil, `{"code":0,"msg":"success","data":{"deviceId":"device-4","machineCode":"m","deviceName":"n","deviceOS":"o","createTime":"2025-09-15T06:14:48.630Z"}}`}
		}
		return done
	})
	b := setup(t, api.URL)
	ledger := newLedger()
	ledger.size["batch-1"], ledger.fail = 5, 3
	b.cfg.Ledger = ledger
	for i := range 5 {
		b.enqueueInBatch(unbindTask(i), tasks.BatchRef{Batch: "batch-1", Index: int64(i)})
	}
	b.start()
	b.awaitSettled()
	got := map[int64]string{}
	for place, r := range ledger.receipts() {
		got[place.Index] = fmt.Sprintf("%s %s %s %s, %d attempts", r.Target, r.Kind, r.Outcome, r.Reason, r.Attempts)
		if named := r.Device != nil; named != (place.Index == 4) {
			t.Errorf("index %d: device %+v", place.Index, r.Device)
		}
	}
	want := map[int64]string{
		0: "device-0 device:unbind succeeded ok, 1 attempts",
		1: "device-1 device:unbind already_gone already_gone, 1 attempts",
		2: "device-2 device:unbind dead forbidden, 1 attempts",
		3: "device-3 device:unbind succeeded ok, 3 attempts",
		4: "device-4 device:unbind succeeded ok, 1 attempts",
	}
	if !maps.Equal(got, want) {
		t.Errorf("receipts\n got %v\nwant %v", got, want)
	}
	if l := b.dead()["device-2"]; l.Batch != "batch-1" {
		t.Errorf("the dead letter is of batch %q", l.Batch)
	}
	_, deletes, _ := api.snapshot()
	if deletes["device-0"] != 1 {
		t.Errorf("device-0 was deleted %d times, though only its receipt was late", deletes["device-0"])
	}
	redistest.Eventually(t, 10*time.Second, "the completion is in the log", func() bool {
		return strings.Count(b.logs.String(), `"msg":"batch complete"`) == 1
	})
}

func TestWithoutALedgerNoTaskOfABatchGoes(t *testing.T) {
	t.Parallel()
	api := newStandIn(t, always(done))
	b := setup(t, api.URL)
	ledger := newLedger()
	ledger.fail = 1 << 30
	b.cfg.Ledger = ledger
	b.enqueueInBatch(unbindTask(1), tasks.BatchRef{Batch: "batch-1"})
	_, stop := b.start()
	redistest.Eventually(t, settleIn, "it was carried out, and put back", func() bool {
		info, err := b.inspector.GetQueueInfo(tasks.QueueUnbind)
		return err == nil && info.Retry == 1
	})
	stop()
	if n := b.outstanding(); n != 1 {
		t.Errorf("%d tasks are outstanding; want the one without its receipt", n)
	}
}
