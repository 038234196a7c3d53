package locks_test

import (
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/kooworker/kooworker/enqueue/locks"
)

// A claim ends, and a lock becomes stale, at the exact millisecond.
func TestClaim_ToTheMillisecond(t *testing.T) {
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
			t.Errorf("%d stale, %d yielded, %v; want %d", counts.Stale, got, err, want)
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
		t.Errorf("before the claim ends: %s, %v; want it releasing", got, err)
	}
	now(2*h + time.Minute)
	if got, err := renew(4*h)(t.Context(), b); got != locks.Renewed || err != nil {
		t.Errorf("when the claim ends: %s, %v; want it renewed", got, err)
	}
}

// clock is a Redis whose time the test moves, by whole minutes. It begins half a
// minute after base, and expiries are whole minutes after base, so that no expiry
// is exactly now.
type clock struct {
	rdb redis.UniversalClient
	// advance moves the time.
	advance func(rt *rapid.T, minutes int)
	// shift is how far the times in the ledger are behind those of the test.
	shift time.Duration
	base  time.Time
}

// aMiniredis is a miniredis, whose clock can be set.
func aMiniredis(t *testing.T) func() *clock {
	t.Helper()
	server := miniredis.RunT(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { _ = rdb.Close() })
	return func() *clock {
		server.FlushAll()
		now := time.Date(2026, 1, 31, 8, 30, 30, 0, time.UTC)
		server.SetTime(now)
		c := &clock{rdb: rdb, base: now.Add(-30 * time.Second)}
		c.advance = func(_ *rapid.T, minutes int) {
			now = now.Add(time.Duration(minutes) * time.Minute)
			server.SetTime(now)
		}
		return c
	}
}

// aRedis is a real Redis, whose clock cannot be set. To advance the time, all times
// in the ledger are moved into the past.
func aRedis(t *testing.T) func() *clock {
	t.Helper()
	b := setup(t)
	return func() *clock {
		if err := b.rdb.FlushDB(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		c := &clock{rdb: b.rdb, base: time.Now().Truncate(time.Millisecond).Add(-30 * time.Second).UTC()}
		c.advance = func(rt *rapid.T, minutes int) {
			by := time.Duration(minutes) * time.Minute
			c.shift += by
			for _, key := range []string{expiryKey, sweptKey, claimsKey} {
				for _, member := range b.rdb.ZRange(t.Context(), key, 0, -1).Val() {
					if err := b.rdb.ZIncrBy(t.Context(), key, -float64(by.Milliseconds()), member).Err(); err != nil {
						rt.Fatal(err)
					}
				}
			}
		}
		return c
	}
}
