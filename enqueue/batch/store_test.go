package batch_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

func (b *bundle) list(tb testing.TB) (ids []string) {
	tb.Helper()
	for stats, err := range b.store.List(tb.Context()) {
		if err != nil {
			tb.Fatal(err)
		}
		ids = append(ids, stats.ID)
	}
	return ids
}

func TestOpen(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for i, want := range []bool{false, true, true} {
		if id, resumed, err := b.store.Open(t.Context(), batch.Spec{ID: "b.1_x-y", NoGuard: true}); id != "b.1_x-y" || resumed != want || err != nil {
			t.Errorf("call %d: %q, resumed %t, %v; want resumed %t", i, id, resumed, err, want)
		}
	}
	for _, spec := range []batch.Spec{{ID: "b.1_x-y"}, {ID: "b.1_x-y", NoGuard: true, NoReceipts: true}} {
		_, _, err := b.store.Open(t.Context(), spec)
		if other, ok := errors.AsType[*batch.SpecError](err); !ok || other.Was == other.Is || other.ID != "b.1_x-y" {
			t.Errorf("%+v: %v; want a SpecError", spec, err)
		}
	}
	for _, id := range []string{"a}b", "{a", "a b", "a\n", "-a", strings.Repeat("a", 65), "é", "a:b"} {
		_, _, err := b.store.Open(t.Context(), batch.Spec{ID: id})
		if _, ok := errors.AsType[*tasks.FieldError](err); !ok {
			t.Errorf("%q: %v; want a FieldError", id, err)
		}
	}
	for _, keep := range []time.Duration{time.Minute - 1, time.Nanosecond, -time.Hour} {
		if _, _, err := b.store.Open(t.Context(), batch.Spec{Keep: keep}); err == nil {
			t.Errorf("opened a batch that is kept for %s; want an error", keep)
		}
	}
	if got := b.list(t); len(got) != 1 {
		t.Errorf("%q are listed; want one batch", got)
	}
}

func TestList_LatestFirst(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var want []string
	for range 250 {
		want = append(want, b.open(t, batch.Spec{}))
	}
	slices.Reverse(want)
	if got := b.list(t); !slices.Equal(got, want) {
		t.Errorf("%d batches, of which the latest is %s; want %d, and %s", len(got), got[0], len(want), want[0])
	}
	n := 0
	for _, err := range b.store.List(t.Context()) {
		if n++; n == 3 || err != nil {
			break
		}
	}
	if n != 3 {
		t.Errorf("%d batches; want to leave the loop after 3", n)
	}
}

// If the process dies after it has made a batch and before it has listed it,
// opening the batch again lists it.
func TestOpen_AfterCrash(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx, crash := context.WithCancel(t.Context())
	if _, _, err := b.hooked("zadd", crash).Open(ctx, batch.Spec{ID: "b"}); err == nil {
		t.Fatal("Open returned no error, although its context ended")
	}
	if got := b.list(t); len(got) != 0 {
		t.Fatalf("%q are listed; want the crash to come before that", got)
	}
	if _, resumed, err := b.store.Open(t.Context(), batch.Spec{ID: "b"}); !resumed || err != nil {
		t.Errorf("resumed %t, %v; want it resumed", resumed, err)
	}
	if got := b.list(t); !slices.Equal(got, []string{"b"}) {
		t.Errorf("%q are listed; want b", got)
	}
	b.closeInput(t, "b", 0)
	if got := b.drained(t); !slices.Equal(got, []string{"b"}) {
		t.Errorf("reported %q; want b", got)
	}
	// Opening the batch again does not report its completion again.
	b.open(t, batch.Spec{ID: "b"})
	if got := b.drained(t); len(got) != 0 {
		t.Errorf("reported %q again; want nothing", got)
	}
}

func TestDelete(t *testing.T) {
	t.Parallel()
	b := setup(t)
	open := b.open(t, batch.Spec{})
	queued, _ := b.closedBatch(t, batch.Spec{}, 2)
	done, indexes := b.closedBatch(t, batch.Spec{}, 2)
	b.recordAll(t, done, indexes, tasks.Dead)
	b.recordAll(t, done, indexes, tasks.Discarded)
	for id, want := range map[string]string{open: "its input was not read to the end", queued: "2 of 2 tasks are queued"} {
		err := b.store.Delete(t.Context(), id, false)
		if _, ok := errors.AsType[*batch.NotDoneError](err); !ok || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want a NotDoneError: %s", err, want)
		}
		b.stats(t, id)
		if err := b.store.Delete(t.Context(), id, true); err != nil {
			t.Errorf("forced: %v; want it deleted", err)
		}
	}
	if err := b.store.Delete(t.Context(), done, false); err != nil {
		t.Error(err)
	}
	if err := b.store.Delete(t.Context(), done, true); err == nil {
		t.Error("deleted a batch twice; want an error")
	}
	for _, name := range b.rdb.Keys(t.Context(), "*").Val() {
		if !strings.HasSuffix(name, ":used") {
			t.Errorf("the key %q is left; want only the reserved names", name)
		}
	}
}

// Every method reports that a batch does not exist.
func TestStore_NoSuchBatch(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, id := range []string{"none", "", "a}b", "*"} {
		_, shown := b.store.Show(t.Context(), id)
		_, audited := b.store.Audit(t.Context(), id)
		_, waited := b.store.Wait(t.Context(), id, nil)
		deleted := b.store.Delete(t.Context(), id, true)
		var read error
		for _, err := range b.store.Receipts(t.Context(), id, batch.ReceiptOptions{Follow: true}) {
			read = errors.Join(read, err)
		}
		for i, err := range []error{shown, audited, waited, deleted, read} {
			if missing, ok := errors.AsType[*batch.NotFoundError](err); !ok || missing.ID != id || missing.Hint() == "" {
				t.Errorf("%q, method %d: %v; want a NotFoundError", id, i, err)
			}
		}
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, indexes := b.closedBatch(t, batch.Spec{}, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if got, err := b.store.Wait(ctx, id, nil); !errors.Is(err, context.DeadlineExceeded) || got.Queued != 3 {
		t.Errorf("%+v, %v; want the last counts and the deadline", got, err)
	}
	var seen []int64
	got, err := b.store.Wait(t.Context(), id, func(stats tasks.BatchStats) {
		seen = append(seen, stats.Queued)
		if stats.Queued > 0 {
			b.recordOutcomes(t, receipt(id, indexes[stats.Queued-1], tasks.Succeeded))
		}
	})
	if err != nil || !got.Done || !slices.Equal(seen, []int64{3, 2, 1, 0}) {
		t.Errorf("%+v, %v, with %v queued on the way; want it done after 3, 2, 1, 0", got, err, seen)
	}
}

func TestWait_RedisRestarts(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	rdb := server.Client()
	b := &bundle{store: batch.NewStore(rdb), rdb: rdb, redis: server}
	id, indexes := b.closedBatch(t, batch.Spec{}, 1)
	var restarting sync.WaitGroup
	restart := sync.OnceFunc(func() {
		server.Kill()
		restarting.Go(func() {
			server.Restart()
			if _, _, err := b.store.RecordOutcomes(t.Context(), []tasks.Receipt{receipt(id, indexes[0], tasks.Succeeded)}); err != nil {
				t.Error(err)
			}
		})
	})
	got, err := b.store.Wait(t.Context(), id, func(tasks.BatchStats) { restart() })
	restarting.Wait()
	if err != nil || !got.Done {
		t.Errorf("%+v, %v; want it done", got, err)
	}
	b.stats(t, id)
}

func TestOpen_NewIDsSort(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var ids []string
	for range 1000 {
		id := b.open(t, batch.Spec{})
		if err := tasks.ValidateBatchID(id); err != nil {
			t.Fatalf("%q, %v; want an ID", id, err)
		}
		ids = append(ids, id)
	}
	if !slices.IsSorted(ids) || len(slices.Compact(ids)) != 1000 {
		t.Errorf("the IDs are %q; want 1000 different ones in order", ids)
	}
}

// The tasks of a batch may outlive it. Their outcomes must not be recorded in
// another batch of the same name.
func TestOpen_NameReserved(t *testing.T) {
	t.Parallel()
	b := setup(t)
	done, _ := b.closedBatch(t, batch.Spec{ID: "done"}, 0)
	open := b.open(t, batch.Spec{ID: "open"})
	for _, id := range []string{done, open} {
		if err := b.store.Delete(t.Context(), id, true); err != nil {
			t.Fatal(err)
		}
		_, _, err := b.store.Open(t.Context(), batch.Spec{ID: id})
		if used, ok := errors.AsType[*batch.NameReservedError](err); !ok || used.ID != id {
			t.Errorf("open %s again: %v; want a NameReservedError", id, err)
		}
		if ttl := b.rdb.TTL(t.Context(), "kooworker:{batch:"+id+"}:used").Val(); ttl < 89*24*time.Hour || ttl > 90*24*time.Hour {
			t.Errorf("the name %s is reserved for %s; want 90 days", id, ttl)
		}
	}
}
