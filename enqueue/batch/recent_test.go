package batch_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

func (b *bundle) recent(t *testing.T, id string) batch.Recent {
	t.Helper()
	r, err := b.store.Recent(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The receipts of the last minute say how fast tasks end.
func TestRecent(t *testing.T) {
	t.Parallel()
	b := setup(t)
	type receipts struct {
		n        int
		age      time.Duration // of the first of them
		every    time.Duration // from one to the next
		attempts int
		outcome  tasks.Outcome
	}
	steadily := func(n int, age, every time.Duration) receipts {
		return receipts{n, age, every, 1, tasks.Succeeded}
	}
	for name, tc := range map[string]struct {
		written  []receipts // oldest first
		n        int
		span     time.Duration
		attempts int
		stalled  bool
	}{
		"none":                 {},
		"the first":            {written: []receipts{steadily(1, 0, 0)}},
		"the first few":        {written: []receipts{steadily(5, 500*time.Millisecond, 100*time.Millisecond)}},
		"since a moment":       {written: []receipts{steadily(21, 10*time.Second, 500*time.Millisecond)}, n: 20, span: 10 * time.Second, attempts: 20},
		"many at a time":       {written: []receipts{steadily(100, 4*time.Second, 0), steadily(100, 2*time.Second, 0)}, n: 100, span: 4 * time.Second, attempts: 100},
		"more than are read":   {written: []receipts{steadily(2000, 20*time.Second, 10*time.Millisecond)}, n: 499, span: 4990 * time.Millisecond, attempts: 499},
		"fast":                 {written: []receipts{steadily(501, 500*time.Millisecond, time.Millisecond)}, n: 499, span: 499 * time.Millisecond, attempts: 499},
		"slow":                 {written: []receipts{steadily(100, 1000*time.Second, 10*time.Second)}, n: 5, span: time.Minute, attempts: 5},
		"after a pause":        {written: []receipts{steadily(9, time.Hour, time.Second), steadily(6, 30*time.Second, 5*time.Second)}, n: 6, span: time.Minute, attempts: 6},
		"stalled":              {written: []receipts{steadily(9, time.Hour, time.Second)}, span: time.Minute, stalled: true},
		"attempts that failed": {written: []receipts{steadily(1, 10*time.Second, 0), {8, 8 * time.Second, time.Second, 3, tasks.AlreadyGone}}, n: 8, span: 10 * time.Second, attempts: 24},
		"dead letters that somebody discards": {
			written: []receipts{steadily(1, 10*time.Second, 0), {8, 8 * time.Second, time.Second, 3, tasks.Discarded}}, span: 10 * time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id := b.open(t, batch.Spec{})
			now, err := b.rdb.Time(t.Context()).Result()
			if err != nil {
				t.Fatal(err)
			}
			pipe, seq := b.rdb.Pipeline(), 0
			for _, w := range tc.written {
				for i := range w.n {
					seq++
					at := now.Add(time.Duration(i)*w.every - w.age).UnixMilli()
					pipe.Do(t.Context(), "XADD", "kooworker:{batch:"+id+"}:receipts", fmt.Sprint(at, "-", seq),
						"i", i, "k", "device:unbind", "o", string(w.outcome), "a", w.attempts)
				}
			}
			if _, err := pipe.Exec(t.Context()); err != nil && len(tc.written) > 0 {
				t.Fatal(err)
			}
			got := b.recent(t, id)
			const late = 500 * time.Millisecond // after now was read
			if got.Tasks != tc.n || got.Attempts != tc.attempts || got.IsStalled != tc.stalled || got.Span < tc.span-time.Millisecond || got.Span > tc.span+late {
				t.Errorf("%+v; want %d tasks and %d attempts in %s, stalled: %t", got, tc.n, tc.attempts, tc.span, tc.stalled)
			}
			if rate := float64(tc.n) / max(got.Span.Seconds(), 1e-9); math.Abs(got.Rate()-rate) > 1e-6 {
				t.Errorf("%g tasks a second; want %g", got.Rate(), rate)
			}
		})
	}
}

func TestRecent_Kinds(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const n = 60
	id, indexes := b.closedBatch(t, batch.Spec{}, n)
	check := func(want ...tasks.Kind) {
		t.Helper()
		if got := b.recent(t, id).Kinds; !cmp.Equal(want, got) {
			t.Errorf("kinds %v; want %v", got, want)
		}
	}
	check()
	for i, index := range indexes {
		kind := []tasks.Kind{tasks.KindLockRelease, tasks.KindUserOffboard, tasks.KindDeviceUnbind}[i/20] // releases ended first
		b.recordOutcomes(t, tasks.Receipt{BatchRef: tasks.BatchRef{Batch: id, Index: index}, Kind: kind, UserID: "u", Target: "t", Outcome: tasks.Succeeded, Reason: tasks.OK})
		if i == 30 {
			check(tasks.KindUserOffboard, tasks.KindLockRelease)
		}
	}
	check(tasks.KindDeviceUnbind)
}

func TestRecent_Unreadable(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.open(t, batch.Spec{})
	for _, attempts := range []any{"1", "many"} {
		if err := b.rdb.XAdd(t.Context(), xadd(id, []string{"i", "0", "k", "device:unbind", "o", "succeeded", "a", fmt.Sprint(attempts)})).Err(); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * time.Millisecond) // a receipt of the same moment as the oldest does not count
	}
	if r, err := b.store.Recent(t.Context(), id); err == nil {
		t.Errorf("%+v of a receipt that cannot be read; want an error", r)
	}
}
