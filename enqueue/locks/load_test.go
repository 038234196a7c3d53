package locks_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/tasks"
)

// slowest pings Redis on a connection of its own until it is stopped. Then it
// returns how long the slowest answer took.
func (b *bundle) slowest(tb testing.TB) (stop func() time.Duration) {
	tb.Helper()
	rdb := b.redis.Client()
	stopping, stopped := make(chan struct{}), make(chan time.Duration)
	go func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		var worst time.Duration
		for {
			select {
			case <-stopping:
				stopped <- worst
				return
			case <-tick.C:
			}
			start := time.Now()
			if err := rdb.Ping(tb.Context()).Err(); err != nil {
				tb.Error(err)
			}
			worst = max(worst, time.Since(start))
		}
	}()
	return func() time.Duration { close(stopping); return <-stopped }
}

// timed logs how long something takes, and how long Redis did not answer others.
func (b *bundle) timed(tb testing.TB, what string, do func() error) {
	tb.Helper()
	stop, start := b.slowest(tb), time.Now()
	err := do()
	took := time.Since(start)
	tb.Logf("%s: %s; slowest PING meanwhile: %s", what, took, stop())
	if err != nil {
		tb.Fatal(err)
	}
}

func TestStore_AHundredThousandLocks(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const n, dead = 100_000, 40_000
	entries := make([]locks.TrackRequest, n)
	for i := range entries {
		entries[i] = b.at(id(i), h)
		if i < dead {
			entries[i] = b.at(id(i), -h)
		}
	}
	ctx := t.Context()
	b.timed(t, "track", func() error { b.track(t, entries...); return nil })
	b.timed(t, "renew, as late", func() error { _, err := b.store.Renew(ctx, entries); return err })
	for i := range entries {
		entries[i].ExpiresAt = entries[i].ExpiresAt.Add(time.Minute)
	}
	b.timed(t, "renew, later", func() error { _, err := b.store.Renew(ctx, entries); return err })
	for _, key := range []string{expiryKey, byUserKey} {
		used, err := b.rdb.MemoryUsage(ctx, key, 0).Result()
		t.Logf("%s: %d bytes, %v", key, used, err)
	}
	b.timed(t, "counts", func() error {
		if got := b.counts(t, 2*time.Minute); got != (locks.Counts{Total: n, Stale: dead}) {
			t.Errorf("%+v; want %d, of which %d stale", got, n, dead)
		}
		return nil
	})
	var stale []tasks.Lock
	b.timed(t, "stale, of one expiry", func() error { stale = collect(t, b.store.Stale(ctx, 2*time.Minute)); return nil })
	if len(stale) != dead {
		t.Errorf("%d stale; want %d", len(stale), dead)
	}
	b.timed(t, "swept", func() error { return b.store.MarkSwept(ctx, stale) })
	claims := make([]locks.Claim, 1000)
	b.timed(t, "1000 claims, one by one", func() (err error) {
		for i := range claims {
			if claims[i], err = b.store.Claim(ctx, stale[i].ID(), stale[i].ExpiresAt, time.Minute); err != nil {
				return err
			}
		}
		return nil
	})
	b.timed(t, "1000 released, one by one", func() error {
		for _, c := range claims {
			if err := b.store.Released(ctx, c); err != nil {
				return err
			}
		}
		return nil
	})
	b.timed(t, "list all", func() error {
		if got := len(collect(t, b.store.List(ctx, locks.Filter{}))); got != n-len(claims) {
			t.Errorf("%d; want %d", got, n-len(claims))
		}
		return nil
	})
	b.timed(t, "list one of 7 users", func() error {
		of := id(n - 1).UserID
		if got := len(collect(t, b.store.List(ctx, locks.Filter{UserID: of}))); got < n/7-len(claims) || got > n/7+1 {
			t.Errorf("%d; want about %d", got, n/7)
		}
		return nil
	})
	b.timed(t, "1000 users of one lock", func() error {
		entries := make([]locks.TrackRequest, 1000)
		for i := range entries {
			entries[i] = locks.TrackRequest{UserID: fmt.Sprint("v-", i), LockID: "l"}
		}
		b.track(t, entries...)
		for _, e := range entries {
			if got, err := b.store.ListByUser(ctx, e.UserID); len(got) != 1 || err != nil {
				t.Fatalf("%v, %v; want one", got, err)
			}
		}
		return nil
	})
	b.timed(t, "drop", func() error { _, err := b.store.Drop(ctx, 0); return err })
	if got := b.counts(t, 0); got != (locks.Counts{Total: n - dead + 1000}) {
		t.Errorf("%+v; want the live ones", got)
	}
}
