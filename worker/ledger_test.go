package worker_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

// testBatch is the batch of the tests that have one.
const testBatch = "batch-1"

// openBatch enqueues tasks as a batch, as package enqueue does.
func (b *bundle) openBatch(all ...tasks.Task) {
	b.t.Helper()
	const id = testBatch
	store := batch.NewStore(b.rdb)
	_, _, err := store.Open(b.t.Context(), batch.Spec{ID: id})
	if err != nil {
		b.t.Fatal(err)
	}
	var digest batch.RollingDigest
	digests := make([]batch.Digest, len(all))
	for i, t := range all {
		digest.AddTask(t)
		digests[i] = digest.Digest()
	}
	chunk, err := store.ClaimChunk(b.t.Context(), id, 0, digests)
	if err != nil {
		b.t.Fatal(err)
	}
	var marks []batch.Mark
	for i, t := range all {
		ref := tasks.BatchRef{Batch: id, Index: chunk.Index(i)}
		payload, err := tasks.Encode(t, tasks.Intent{EnqueuedAt: time.Now(), BatchRef: ref})
		if err != nil {
			b.t.Fatal(err)
		}
		if _, err := b.client.EnqueueContext(b.t.Context(), asynq.NewTask(string(t.Kind()), payload), asynq.Queue(t.Queue()), asynq.MaxRetry(tasks.MaxRetry)); err != nil {
			b.t.Fatal(err)
		}
		marks = append(marks, batch.Mark{Index: ref.Index, State: batch.Queued})
	}
	if err := store.Mark(b.t.Context(), id, marks, nil); err != nil {
		b.t.Fatal(err)
	}
	if err := store.CloseInput(b.t.Context(), id, int64(len(all))); err != nil {
		b.t.Fatal(err)
	}
}

// receipts returns the batch's latest receipts by target.
func (b *bundle) receipts() map[string]tasks.Receipt {
	b.t.Helper()
	out := map[string]tasks.Receipt{}
	for r, err := range batch.NewStore(b.rdb).Receipts(b.t.Context(), testBatch, batch.ReceiptOptions{}) {
		if err != nil {
			b.t.Fatal(err)
		}
		out[r.Target] = r
	}
	return out
}

// failLedger makes the worker's next n exchanges with the batch ledger fail.
func (b *bundle) failLedger(n int64) { b.failScripts("{batch:", n) }

// failScripts makes the worker's next n scripts fail that have a key like this.
func (b *bundle) failScripts(key string, n int64) {
	hook := &failingLedger{key: key}
	hook.left.Store(n)
	newRedis := b.cfg.Redis
	b.cfg.Redis = func() redis.UniversalClient {
		rdb := newRedis()
		rdb.AddHook(hook)
		return rdb
	}
}

type failingLedger struct {
	key  string
	left atomic.Int64
}

func (*failingLedger) DialHook(next redis.DialHook) redis.DialHook { return next }

func (*failingLedger) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (h *failingLedger) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		script := strings.HasPrefix(cmd.Name(), "eval")
		if script && strings.Contains(fmt.Sprint(cmd.Args()...), h.key) && h.left.Add(-1) >= 0 {
			var err error = &net.OpError{Op: "dial", Err: errors.New("the ledger is away")}
			cmd.SetErr(err)
			return err
		}
		return next(ctx, cmd)
	}
}

func TestWorker_EachTaskOfABatchGetsItsReceipt(t *testing.T) {
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
	b.failLedger(3)
	var all []tasks.Task
	for i := range 5 {
		all = append(all, unbindTask(i))
	}
	b.openBatch(all...)
	b.start()
	b.awaitSettled()
	got := map[string]string{}
	for target, r := range b.receipts() {
		got[target] = fmt.Sprintf("%s %s %s, %d attempts", r.Kind, r.Outcome, r.Reason, r.Attempts)
		if named := r.Device != nil; named != (target == "device-4") {
			t.Errorf("%s: device %+v; want one for device-4 only", target, r.Device)
		}
	}
	want := map[string]string{
		"device-0": "device:unbind succeeded ok, 1 attempts",
		"device-1": "device:unbind already_gone already_gone, 1 attempts",
		"device-2": "device:unbind dead forbidden, 1 attempts",
		"device-3": "device:unbind succeeded ok, 3 attempts",
		"device-4": "device:unbind succeeded ok, 1 attempts",
	}
	if !maps.Equal(got, want) {
		t.Errorf("receipts\n got %v\nwant %v", got, want)
	}
	if l := b.dead()["device-2"]; l.Batch != "batch-1" {
		t.Errorf("the dead letter is of batch %q; want batch-1", l.Batch)
	}
	_, deletes, _ := api.snapshot()
	if deletes["device-0"] != 1 {
		t.Errorf("device-0 was deleted %d times; want once, since only its receipt was late", deletes["device-0"])
	}
	redistest.Eventually(t, 10*time.Second, "the completion is in the log", func() bool {
		return strings.Count(b.logs.String(), `"msg":"batch complete"`) == 1
	})
}

func TestWorker_TaskOfABatchStaysUntilItsReceiptIsWritten(t *testing.T) {
	t.Parallel()
	api := newStandIn(t, always(done))
	b := setup(t, api.URL)
	b.failLedger(1 << 30)
	b.openBatch(unbindTask(1))
	_, stop := b.start()
	redistest.Eventually(t, settleIn, "it is done, and put back", func() bool {
		info, err := b.inspector.GetQueueInfo(tasks.QueueUnbind)
		return err == nil && info.Retry == 1
	})
	stop()
	if n := b.outstanding(); n != 1 {
		t.Errorf("%d tasks are outstanding; want the one without its receipt", n)
	}
}
