package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/kooworker/kooworker/tasks"
)

// A task that runs again may succeed. Then no letter of its first run must be left.
func TestProcess_NoLetterWithoutItsReceipt(t *testing.T) {
	t.Parallel()
	d := delivery(`{"v":1,"user_id":"u","device_id":"d","batch":"b","index":3}`)
	b := setup(t, tasks.Forbidden)
	b.receipts.err = errAway
	if v := b.Process(t.Context(), d); v.Action != Retry || v.CountsAsAttempt || len(b.store.parked) != 0 {
		t.Errorf("%+v, parked %+v; want it put back uncharged, and no letter", v, b.store.parked)
	}
	b.receipts.err = nil
	b.store.err = errors.New("the letter cannot be stored")
	if v := b.Process(t.Context(), d); v.Action != Retry || v.CountsAsAttempt {
		t.Errorf("%+v; want it put back uncharged", v)
	}
	b.jobs.do = func(context.Context, tasks.Task) Result { return Done(nil) }
	if v := b.Process(t.Context(), d); v.Action != Complete {
		t.Errorf("%+v; want it done", v)
	}
	var outcomes []tasks.Outcome
	for _, r := range b.receipts.receipts {
		outcomes = append(outcomes, r.Outcome)
	}
	if !slices.Equal(outcomes, []tasks.Outcome{tasks.Dead, tasks.Succeeded}) {
		t.Errorf("receipts %v; want dead, and succeeded after it", outcomes)
	}
}

// At asynq's limit a task whose receipt fails would be archived.
func TestProcess_FailedReceiptIsRequeuedBeforeAsynqArchivesIt(t *testing.T) {
	t.Parallel()
	d := delivery(`{"v":1,"user_id":"u","device_id":"d","batch":"b","index":3}`)
	d.RetryLimit = 0
	b := setup(t, tasks.OK)
	b.receipts.err = errAway
	v := b.Process(t.Context(), d)
	if err := ToAsynqError(d, v); err != nil || len(b.store.requeued) != 1 {
		t.Errorf("asynq gets %v, requeued %v; want it requeued, since asynq would archive it", err, b.store.requeued)
	}
}

// The ledger of the batch was written by hand, and never takes a receipt.
func TestProcess_WaitForAReceiptEnds(t *testing.T) {
	t.Parallel()
	b := setup(t, tasks.OK)
	d := delivery(`{"v":1,"user_id":"u","device_id":"d","batch":"b","index":3}`)
	b.receipts.err = errors.New("hash value is not an integer")
	for range 3 {
		if v := b.Process(t.Context(), d); v.Action != Retry || v.CountsAsAttempt || len(b.jobs.calls) != 1 {
			t.Errorf("%+v after %d calls; want it put back uncharged after one call", v, len(b.jobs.calls))
		}
	}
	b.waited = b.policy.MaxWait
	const want = "waiting: it is succeeded, but its receipt cannot be written: hash value is not an integer"
	if v := b.Process(t.Context(), d); v.Action != Park || len(b.store.parked) != 1 || b.store.parked[0].Error != want {
		t.Errorf("%+v, parked %+v; want it dead with %q", v, b.store.parked, want)
	}
	b.waits = 0
	b.receipts.err = errAway
	if v := b.Process(t.Context(), d); v.Action != Retry || b.waits != 0 {
		t.Errorf("%+v, noted %d times; want it to wait for as long as Redis is away", v, b.waits)
	}
}

// The ledger is away for longer than a receipt waits. The device is gone by then,
// so the second run alone would prove less than the first.
func TestProcess_OutcomeIsKeptUntilItsReceiptIsWritten(t *testing.T) {
	t.Parallel()
	b := setup(t, tasks.OK)
	device := &tasks.Device{DeviceID: "d"}
	b.jobs.do = func(context.Context, tasks.Task) Result {
		if len(b.jobs.calls) > 1 {
			return AlreadyGone()
		}
		return Done(device)
	}
	d := delivery(`{"v":1,"user_id":"u","device_id":"d","batch":"b","index":3}`)
	b.receipts.err = errAway
	for range 3 {
		if v := b.Process(t.Context(), d); v.Action != Retry || v.CountsAsAttempt {
			t.Fatalf("%+v; want it put back uncharged while its receipt cannot be written", v)
		}
	}
	b.receipts.err = nil
	if v := b.Process(t.Context(), d); v.Action != Complete || v.Outcome != tasks.Succeeded {
		t.Errorf("%+v; want it succeeded", v)
	}
	if len(b.jobs.calls) != 1 || len(b.receipts.receipts) != 1 || b.receipts.receipts[0].Outcome != tasks.Succeeded || b.receipts.receipts[0].Device != device {
		t.Errorf("calls %v, receipts %+v; want one call, and its outcome with the device", b.jobs.calls, b.receipts.receipts)
	}
	if v := b.Process(t.Context(), d); v.Outcome != tasks.AlreadyGone || len(b.jobs.calls) != 2 {
		t.Errorf("%+v after %v; want a new run once the receipt is written", v, b.jobs.calls)
	}
}

// Another worker has recorded the first order, and its batch was made again: the new
// order of the same device has the same task ID.
func TestProcess_OutcomeIsKeptForItsOrderOnly(t *testing.T) {
	t.Parallel()
	b := setup(t, tasks.OK)
	first := delivery(`{"v":1,"user_id":"u","device_id":"d","enqueued_at":"2026-01-31T08:30:00Z","batch":"b","index":3}`)
	again := delivery(`{"v":1,"user_id":"u","device_id":"d","enqueued_at":"2026-01-31T09:30:00Z","batch":"b","index":3}`)
	b.receipts.err = errAway
	b.Process(t.Context(), first)
	b.receipts.err = nil
	before := len(b.jobs.calls)
	if v := b.Process(t.Context(), again); v.Outcome != tasks.Succeeded || len(b.jobs.calls) <= before {
		t.Errorf("%+v after %v; want the new order carried out", v, b.jobs.calls)
	}
}

// Whoever replays a letter wants another call, whatever this process remembers.
func TestProcess_ReplayIsNoRepetition(t *testing.T) {
	t.Parallel()
	b := setup(t, tasks.Forbidden)
	d := delivery(`{"v":1,"user_id":"u","device_id":"d","batch":"b","index":3}`)
	b.receipts.err = errAway
	b.Process(t.Context(), d) // another worker has parked it since
	b.receipts.err = nil
	b.jobs.do = func(context.Context, tasks.Task) Result { return Done(nil) }
	d.Replay, d.Retries = true, 1
	if v := b.Process(t.Context(), d); v.Outcome != tasks.Succeeded || len(b.jobs.calls) != 2 {
		t.Errorf("%+v after %d calls; want the replay to call", v, len(b.jobs.calls))
	}
}

// While an outcome is stored, its task takes no slot.
func TestProcess_AttemptIsOverBeforeItIsStored(t *testing.T) {
	t.Parallel()
	b := setup(t, tasks.OK)
	d := delivery(`{"v":1,"user_id":"u","device_id":"d","batch":"b","index":3}`)
	var steps []string
	b.jobs.do = func(context.Context, tasks.Task) Result { steps = append(steps, "job"); return Done(nil) }
	d.Attempted = func() { steps = append(steps, fmt.Sprintf("attempted, receipts: %d", len(b.receipts.receipts))) }
	b.Process(t.Context(), d)
	if got, want := fmt.Sprint(steps, len(b.receipts.receipts)), "[job attempted, receipts: 0] 1"; got != want {
		t.Errorf("%s; want %s", got, want)
	}
}
