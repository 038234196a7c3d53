package batch_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

// ascii contains every character that a user's id may contain.
const ascii = "!\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~"

func TestReceipts_RoundTrip(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, indexes := b.closedBatch(t, batch.Spec{}, 5)
	bound := time.Date(2025, 9, 15, 6, 14, 48, 630_000_001, time.UTC)
	want := []tasks.Receipt{
		{Kind: tasks.KindDeviceUnbind, UserID: ascii, Target: "1775406005920779393", Outcome: tasks.Succeeded, Reason: tasks.OK, Attempts: 3, Device: &tasks.Device{
			DeviceID: "1775406005920779393", MachineCode: "m\"\\\n", DeviceName: "Ünïcode <b>&\u2028 📱", DeviceOS: "android", CreateTime: bound,
		}},
		{Kind: tasks.KindDeviceUnbind, UserID: "u", Target: "d", Outcome: tasks.AlreadyGone, Reason: tasks.Gone, Device: &tasks.Device{}},
		{Kind: tasks.KindLockRelease, UserID: "-1", Target: "78e41c7e-db02-4d55-85b3-8153e4fefd2e@102", Outcome: tasks.Dead, Reason: tasks.Forbidden, Attempts: 1},
		{Kind: tasks.KindUserOffboard, UserID: "0", Outcome: tasks.Discarded, Reason: tasks.StillBound, Attempts: -1},
		{Kind: tasks.KindDeviceUnbind, UserID: "1e9", Target: "nan", Outcome: tasks.Superseded, Reason: tasks.OK, Attempts: 1<<31 - 1},
	}
	from, err := b.rdb.Time(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	for i := range want {
		want[i].BatchRef = tasks.BatchRef{Batch: id, Index: indexes[i]}
		want[i].At = time.Now().Add(time.Hour) // the ledger ignores the caller's time
	}
	b.recordOutcomes(t, want...)
	to, err := b.rdb.Time(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	got := b.receipts(t, id, batch.ReceiptOptions{})
	for i := range got {
		if at := got[i].At; at.Before(from.Truncate(time.Millisecond)) || at.After(to) || at.Location() != time.UTC {
			t.Errorf("receipt %d was recorded at %s; want a time in UTC between %s and %s", i, at, from, to)
		}
		got[i].At = want[i].At
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("receipts (-want +got):\n%s", diff)
	}
}

func TestReceipts_Pages(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 999, 1000, 1001, 2000, 2500} {
		b := setup(t)
		id, indexes := b.closedBatch(t, batch.Spec{}, n)
		b.recordAll(t, id, indexes, tasks.Dead)
		b.recordAll(t, id, indexes[:n/2], tasks.Succeeded)
		for _, tc := range []struct {
			options batch.ReceiptOptions
			want    int
		}{
			{batch.ReceiptOptions{}, n},
			{batch.ReceiptOptions{History: true}, n + n/2},
			{batch.ReceiptOptions{Follow: true}, n + n/2}, // the batch is done, so this ends
			{batch.ReceiptOptions{Follow: true, History: true}, n + n/2},
		} {
			got := b.receipts(t, id, tc.options)
			last := map[int64]tasks.Outcome{}
			for _, r := range got {
				last[r.Index] = r.Outcome
			}
			if len(got) != tc.want || len(last) != n {
				t.Errorf("%d tasks, %+v: %d receipts of %d tasks; want %d", n, tc.options, len(got), len(last), tc.want)
			}
			for i, index := range indexes {
				if want := map[bool]tasks.Outcome{true: tasks.Succeeded, false: tasks.Dead}[i < n/2]; last[index] != want {
					t.Errorf("%d tasks, %+v: task %d is %s at last; want %s", n, tc.options, index, last[index], want)
				}
			}
		}
	}
}

func TestReceipts_Break(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, indexes := b.closedBatch(t, batch.Spec{}, 10)
	b.recordAll(t, id, indexes, tasks.Succeeded)
	for _, follow := range []bool{false, true} {
		n := 0
		for _, err := range b.store.Receipts(t.Context(), id, batch.ReceiptOptions{Follow: follow}) {
			if n++; n == 3 || err != nil {
				break
			}
		}
		if n != 3 {
			t.Errorf("follow %t: %d receipts; want to leave the loop after 3", follow, n)
		}
	}
}

// Ranging over the iterator again begins at the first receipt again.
func TestReceipts_Twice(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, indexes := b.closedBatch(t, batch.Spec{}, 3)
	b.recordAll(t, id, indexes, tasks.Succeeded)
	all := b.store.Receipts(t.Context(), id, batch.ReceiptOptions{})
	for range 2 {
		n := 0
		for _, err := range all {
			if n++; err != nil {
				t.Error(err)
			}
		}
		if n != 3 {
			t.Errorf("%d receipts; want 3", n)
		}
	}
}

func TestReceipts_NoReceipts(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, indexes := b.closedBatch(t, batch.Spec{NoReceipts: true}, 2)
	b.recordAll(t, id, indexes, tasks.Dead)
	b.recordAll(t, id, indexes, tasks.Succeeded)
	for _, err := range b.store.Receipts(t.Context(), id, batch.ReceiptOptions{}) {
		if none, ok := errors.AsType[*batch.NoReceiptsError](err); !ok || none.ID != id {
			t.Errorf("%v; want a NoReceiptsError", err)
		}
	}
	if got, want := counts(b.stats(t, id)), (tasks.BatchStats{Total: 2, Succeeded: 2, Done: true}); got != want {
		t.Errorf("%+v; want %+v", got, want)
	}
	for name := range b.ttls(t, id) {
		if name == "receipts" || name == "revised" {
			t.Errorf("the key %s exists; want no receipts", name)
		}
	}
}

func TestReceipts_Unreadable(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for field, value := range map[string]string{"i": "x", "a": "many", "d": "{"} {
		id, indexes := b.closedBatch(t, batch.Spec{}, 1)
		b.recordAll(t, id, indexes, tasks.Succeeded)
		entry := map[string]string{"i": "0", "k": "device:unbind", "u": "u", "t": "d", "o": "succeeded", "r": "ok", "a": "1", "d": "", field: value}
		var values []string
		for k, v := range entry {
			values = append(values, k, v)
		}
		if err := b.rdb.XAdd(t.Context(), xadd(id, values)).Err(); err != nil {
			t.Fatal(err)
		}
		var failed error
		for _, err := range b.store.Receipts(t.Context(), id, batch.ReceiptOptions{}) {
			failed = errors.Join(failed, err)
		}
		if failed == nil || !strings.Contains(failed.Error(), id) {
			t.Errorf("%s=%s: %v; want an error that names the batch", field, value, failed)
		}
	}
}
