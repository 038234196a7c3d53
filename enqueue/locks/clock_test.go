package locks_test

import (
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/locks"
)

// A claim is over, and a lock is stale, at the very millisecond.
func TestToTheMillisecond(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { _ = rdb.Close() })
	b := &bundle{store: locks.NewStore(rdb), rdb: rdb, start: time.Date(2026, 1, 31, 8, 30, 0, 0, time.UTC)}
	now := func(d time.Duration) { server.SetTime(b.start.Add(d)) }
	stale := func(want int64) {
		t.Helper()
		counts, err := b.store.Counts(t.Context(), time.Minute)
		if got := len(collect(t, b.store.Stale(t.Context(), time.Minute))); counts.Stale != want || int64(got) != want || err != nil {
			t.Errorf("%d stale, %d are yielded, %v; want %d", counts.Stale, got, err, want)
		}
	}
	now(0)
	b.track(t, b.at(id(1), h))
	now(h - time.Millisecond)
	if got, err := claim(h)(t.Context(), b); got != locks.Renewed || err != nil {
		t.Errorf("claimed before its expiry: %s, %v; want it renewed", got, err)
	}
	now(h + time.Minute - time.Millisecond)
	stale(0)
	now(h + time.Minute)
	stale(1)
	if got, err := claim(h)(t.Context(), b); got != locks.Claimed || err != nil {
		t.Errorf("%s, %v; want it claimed", got, err)
	}
	now(2*h + time.Minute - time.Millisecond)
	if got, err := renew(4*h)(t.Context(), b); got != locks.Releasing || err != nil {
		t.Errorf("before the claim is over: %s, %v; want it releasing", got, err)
	}
	now(2*h + time.Minute)
	if got, err := renew(4*h)(t.Context(), b); got != locks.Renewed || err != nil {
		t.Errorf("when the claim is over: %s, %v; want it renewed", got, err)
	}
}
