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
	for balance, err := range b.store.List(tb.Context()) {
		if err != nil {
			tb.Fatal(err)
		}
		ids = append(ids, balance.ID)
	}
	return ids
}

func TestOpen(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for i, want := range []bool{false, true, true} {
		if id, resumed, err := b.store.Open(t.Context(), batch.Spec{ID: "b.1_x-y", NoGuard: true}); id != "b.1_x-y" || resumed != want || err != nil {
			t.Errorf("time %d: %q, resumed %t, %v; want resumed %t", i, id, resumed, err, want)
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
			t.Errorf("opened a batch that is kept for %s", keep)
		}
	}
	if got := b.list(t); len(got) != 1 {
		t.Errorf("there are %q; want the one", got)
	}
}

func TestListIsLatestFirst(t *testing.T) {
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
		t.Errorf("stopped after %d", n)
	}
}

// A crash between making and listing is made good by opening it again.
func TestOpenAfterACrash(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx, crash := context.WithCancel(t.Context())
	if _, _, err := b.hooked("zadd", crash).Open(ctx, batch.Spec{ID: "b"}); err == nil {
		t.Fatal("opened, although it crashed")
	}
	if got := b.list(t); len(got) != 0 {
		t.Fatalf("%q are listed; the crash was too late", got)
	}
	if _, resumed, err := b.store.Open(t.Context(), batch.Spec{ID: "b"}); !resumed || err != nil {
		t.Errorf("resumed %t, %v", resumed, err)
	}
	if got := b.list(t); !slices.Equal(got, []string{"b"}) {
		t.Errorf("%q are listed; want it", got)
	}
	b.seal(t, "b", 0)
	if got := b.announced(t); !slices.Equal(got, []string{"b"}) {
		t.Errorf("told of %q; want it told of", got)
	}
	// Who opens what was told of does not have it told again.
	b.open(t, batch.Spec{ID: "b"})
	if got := b.announced(t); len(got) != 0 {
		t.Errorf("told of %q again", got)
	}
}

func TestDelete(t *testing.T) {
	t.Parallel()
	b := setup(t)
	unsealed := b.open(t, batch.Spec{})
	queued, _ := b.sealed(t, batch.Spec{}, 2)
	done, at := b.sealed(t, batch.Spec{}, 2)
	b.settleAll(t, done, at, tasks.Dead)
	b.settleAll(t, done, at, tasks.Discarded)
	for id, want := range map[string]string{unsealed: "its input was not read to the end", queued: "2 of 2 tasks are queued"} {
		err := b.store.Delete(t.Context(), id, false)
		if _, ok := errors.AsType[*batch.NotDoneError](err); !ok || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want a NotDoneError: %s", err, want)
		}
		b.balance(t, id)
		if err := b.store.Delete(t.Context(), id, true); err != nil {
			t.Errorf("by force: %v", err)
		}
	}
	if err := b.store.Delete(t.Context(), done, false); err != nil {
		t.Error(err)
	}
	if err := b.store.Delete(t.Context(), done, true); err == nil {
		t.Error("deleted twice")
	}
	for _, name := range b.rdb.Keys(t.Context(), "*").Val() {
		if !strings.HasSuffix(name, ":used") {
			t.Errorf("%q is left", name)
		}
	}
}

// Whatever is asked of a batch that is not there says so.
func TestABatchThatIsNotThere(t *testing.T) {
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
				t.Errorf("%q, %d: %v; want a NotFoundError", id, i, err)
			}
		}
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, at := b.sealed(t, batch.Spec{}, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if got, err := b.store.Wait(ctx, id, nil); !errors.Is(err, context.DeadlineExceeded) || got.Queued != 3 {
		t.Errorf("%+v, %v; want what was seen last, and the deadline", got, err)
	}
	var seen []int64
	got, err := b.store.Wait(t.Context(), id, func(balance tasks.BatchStats) {
		seen = append(seen, balance.Queued)
		if balance.Queued > 0 {
			b.settle(t, receipt(id, at[balance.Queued-1], tasks.Succeeded))
		}
	})
	if err != nil || !got.Done || !slices.Equal(seen, []int64{3, 2, 1, 0}) {
		t.Errorf("%+v, %v, having seen %v queued; want it done", got, err, seen)
	}
}

func TestWaitOutlivesARestart(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	rdb := server.Client()
	b := &bundle{store: batch.NewStore(rdb), rdb: rdb, redis: server}
	id, at := b.sealed(t, batch.Spec{}, 1)
	var restarting sync.WaitGroup
	restart := sync.OnceFunc(func() {
		server.Kill()
		restarting.Go(func() {
			server.Restart()
			if _, err := b.store.RecordOutcomes(t.Context(), []tasks.Receipt{receipt(id, at[0], tasks.Succeeded)}); err != nil {
				t.Error(err)
			}
		})
	})
	got, err := b.store.Wait(t.Context(), id, func(tasks.BatchStats) { restart() })
	restarting.Wait()
	if err != nil || !got.Done {
		t.Errorf("%+v, %v; want it done", got, err)
	}
	b.balance(t, id)
}

func TestIDsSort(t *testing.T) {
	t.Parallel()
	var ids []string
	for range 1000 {
		id, err := batch.NewID()
		if err != nil || tasks.ValidateBatchID(id) != nil {
			t.Fatalf("%q, %v; want an ID", id, err)
		}
		ids = append(ids, id)
	}
	if !slices.IsSorted(ids) || len(slices.Compact(ids)) != 1000 {
		t.Errorf("not in order: %q", ids)
	}
}

// The tasks of a batch may outlive it, and must not settle as another's.
func TestANameIsNotGivenOutTwice(t *testing.T) {
	t.Parallel()
	b := setup(t)
	done, _ := b.sealed(t, batch.Spec{ID: "done"}, 0)
	open := b.open(t, batch.Spec{ID: "open"})
	for _, id := range []string{done, open} {
		if err := b.store.Delete(t.Context(), id, true); err != nil {
			t.Fatal(err)
		}
		_, _, err := b.store.Open(t.Context(), batch.Spec{ID: id})
		if used, ok := errors.AsType[*batch.NameReservedError](err); !ok || used.ID != id {
			t.Errorf("%s again: %v; want it refused", id, err)
		}
		if ttl := b.rdb.TTL(t.Context(), "kooworker:{batch:"+id+"}:used").Val(); ttl < 89*24*time.Hour || ttl > 90*24*time.Hour {
			t.Errorf("the name of %s is kept for %s; want 90 days", id, ttl)
		}
	}
}
