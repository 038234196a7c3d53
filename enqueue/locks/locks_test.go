package locks_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	expiryKey = "{kooworker:locks}:expiry"
	sweptKey  = "{kooworker:locks}:swept"
	claimsKey = "{kooworker:locks}:claims"
	byUserKey = "{kooworker:locks}:names"
)

// bundle is a ledger in a Redis of its own.
type bundle struct {
	store *locks.Store
	rdb   redis.UniversalClient
	redis *redistest.Server
	// start is about when the test began, in whole milliseconds.
	start time.Time
	claim locks.Claim // the last one
}

func setup(tb testing.TB) *bundle {
	tb.Helper()
	server := redistest.Start(tb)
	rdb := server.Client()
	return &bundle{store: locks.NewStore(rdb), rdb: rdb, redis: server, start: time.Now().Truncate(time.Millisecond).UTC()}
}

// at returns a request for a lock that expires so long after the start.
func (b *bundle) at(id tasks.LockID, d time.Duration) locks.TrackRequest {
	return locks.TrackRequest{UserID: id.UserID, LockID: id.LockID, ExpiresAt: b.start.Add(d)}
}

func (b *bundle) lock(id tasks.LockID, d time.Duration) tasks.Lock {
	return tasks.Lock{UserID: id.UserID, LockID: id.LockID, ExpiresAt: b.start.Add(d)}
}

func id(n int) tasks.LockID {
	return tasks.LockID{UserID: fmt.Sprint("u-", n%7), LockID: fmt.Sprintf("lock-%06d@102", n)}
}

// track wants all of these to be tracked.
func (b *bundle) track(tb testing.TB, entries ...locks.TrackRequest) {
	tb.Helper()
	answers, err := b.store.Track(tb.Context(), entries)
	if err != nil || len(answers) != len(entries) {
		tb.Fatalf("%d answers, %v; want %d", len(answers), err, len(entries))
	}
	for _, answer := range answers {
		if answer != locks.Tracked {
			tb.Fatalf("%s; want it tracked", answer)
		}
	}
}

// where returns in which sets a lock is, such as "swept -1h0m0s claimed". It wants
// the lock in names exactly if it is in expiry or in swept.
func (b *bundle) where(tb testing.TB, id tasks.LockID) string {
	tb.Helper()
	var words []string
	member := id.UserID + " " + id.LockID
	for _, key := range []string{expiryKey, sweptKey, claimsKey} {
		score, err := b.rdb.ZScore(tb.Context(), key, member).Result()
		if errors.Is(err, redis.Nil) {
			continue
		}
		if err != nil {
			tb.Fatal(err)
		}
		if key == claimsKey {
			words = append(words, "claimed")
			continue
		}
		words = append(words, strings.TrimPrefix(key, "{kooworker:locks}:"), time.UnixMilli(int64(score)).Sub(b.start).String())
	}
	where := strings.Join(words, " ")
	_, err := b.rdb.ZScore(tb.Context(), byUserKey, member).Result()
	if named, there := err == nil, where != "" && where != "claimed"; named != there || err != nil && !errors.Is(err, redis.Nil) {
		tb.Errorf("it is in %q, and in names: %t, %v; want %t", where, named, err, there)
	}
	return where
}

func TestTrack_ExpiryByRedisClock(t *testing.T) {
	t.Parallel()
	b := setup(t)
	before := b.rdb.Time(t.Context()).Val()
	b.track(t, locks.TrackRequest{UserID: "u", LockID: "default"}, locks.TrackRequest{UserID: "u", LockID: "life@7", ExpiresIn: 1500 * time.Microsecond})
	after := b.rdb.Time(t.Context()).Val()
	got := map[string]locks.Lock{}
	for lock, err := range b.store.List(t.Context(), locks.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		got[lock.LockID] = lock
	}
	for name, life := range map[string]time.Duration{"default": locks.DefaultTTL, "life@7": 2 * time.Millisecond} {
		at := got[name].ExpiresAt
		if at.Before(before.Add(life).Truncate(time.Millisecond)) || at.After(after.Add(life)) {
			t.Errorf("%s expires at %s; want %s after %s", name, at, life, before)
		}
	}
	if m := got["life@7"].Lock.ID().Module(); m != "7" {
		t.Errorf("module %q; want 7", m)
	}
	if m := got["default"].Lock.ID().Module(); m != "" {
		t.Errorf("module %q; want none", m)
	}
}

// A database may have expiries in microseconds. Claim accepts them as Track does.
func TestClaim_FractionsOfAMillisecond(t *testing.T) {
	t.Parallel()
	b := setup(t)
	at := b.start.Add(-h + 300*time.Microsecond)
	b.track(t, locks.TrackRequest{UserID: "u", LockID: "l", ExpiresAt: at})
	c, err := b.store.Claim(t.Context(), tasks.LockID{UserID: "u", LockID: "l"}, at, h)
	if err != nil || c.Status != locks.Claimed {
		t.Fatalf("%+v, %v; want it claimed", c, err)
	}
	if err := b.store.Released(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if counts := b.counts(t, 0); counts.Total != 0 {
		t.Errorf("%+v; want nothing left", counts)
	}
}

// A call with one invalid argument changes nothing, not even for the valid ones.
func TestStore_InvalidArguments(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx, s, good := t.Context(), b.store, id(1)
	bad := tasks.LockID{UserID: "u", LockID: "l l"}
	_, tracked := s.Track(ctx, []locks.TrackRequest{b.at(good, h), b.at(bad, h)})
	_, renewed := s.Renew(ctx, []locks.TrackRequest{b.at(good, h), {UserID: "u u", LockID: "l"}})
	_, negative := s.Renew(ctx, []locks.TrackRequest{b.at(good, h), {UserID: "u", LockID: "l", ExpiresIn: -1}})
	_, forgotten := s.Forget(ctx, []tasks.LockID{good, bad})
	_, claimed := s.Claim(ctx, bad, b.start, h)
	_, unseen := s.Claim(ctx, good, time.Time{}, h)
	_, noHold := s.Claim(ctx, good, b.start, 0)
	_, longHold := s.Claim(ctx, good, b.start, 24*h)
	_, counted := s.Counts(ctx, -1)
	_, dropped := s.Drop(ctx, -1)
	_, ofUser := s.ListByUser(ctx, "u u")
	var stale, list, listOfUser error
	for _, stale = range s.Stale(ctx, -1) {
		continue
	}
	for _, list = range s.List(ctx, locks.Filter{StaleOnly: true, Grace: -1}) {
		continue
	}
	for _, listOfUser = range s.List(ctx, locks.Filter{StaleOnly: true, Grace: -1, UserID: "u"}) {
		continue
	}
	for name, err := range map[string]error{
		"track": tracked, "renew": renewed, "negative": negative, "forget": forgotten, "claim": claimed, "unseen": unseen,
		"no hold": noHold, "long hold": longHold, "counts": counted, "drop": dropped, "of user": ofUser, "stale": stale, "list": list, "list of user": listOfUser,
		"swept": s.MarkSwept(ctx, []tasks.Lock{b.lock(good, h), b.lock(bad, h)}), "unclaim": s.Unclaim(ctx, locks.Claim{ID: bad}),
		"released": s.Released(ctx, locks.Claim{ID: bad}),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		_, field := errors.AsType[*tasks.FieldError](err)
		if want := slices.Contains([]string{"track", "renew", "forget", "claim", "swept", "unclaim", "released", "of user"}, name); field != want {
			t.Errorf("%s: %v; want a FieldError: %t", name, err, want)
		}
	}
	if n := b.rdb.DBSize(ctx).Val(); n != 0 {
		t.Errorf("%d keys; want that nothing was written", n)
	}
	for _, empty := range []error{
		s.MarkSwept(ctx, nil), func() error { _, err := s.Track(ctx, nil); return err }(),
	} {
		if empty != nil {
			t.Errorf("a call without locks: %v; want no error", empty)
		}
	}
}

// When Redis fails half-way, the answers so far are returned.
func TestTrack_ErrorHalfWay(t *testing.T) {
	t.Parallel()
	b := setup(t)
	rdb := b.redis.Client()
	calls := 0
	rdb.AddHook(before{"evalsha", func() error {
		if calls++; calls == 3 { // the first is answered with NOSCRIPT
			return errors.New("cut off")
		}
		return nil
	}})
	store := locks.NewStore(rdb)
	entries := make([]locks.TrackRequest, 1200)
	for i := range entries {
		entries[i] = b.at(id(i), h)
	}
	answers, err := store.Track(t.Context(), entries)
	if err == nil || len(answers) == 0 || len(answers)%500 != 0 || len(answers) == len(entries) {
		t.Fatalf("%d answers, %v; want those of whole chunks, and an error", len(answers), err)
	}
	done := len(answers)
	answers, err = store.Track(t.Context(), entries)
	for i, answer := range answers {
		if want := map[bool]locks.Status{true: locks.Unchanged, false: locks.Tracked}[i < done]; answer != want {
			t.Fatalf("number %d, the second time: %s; want %s", i, answer, want)
		}
	}
	if err != nil || len(answers) != len(entries) {
		t.Errorf("%d answers, %v; want all", len(answers), err)
	}
}

// A Redis that is full refuses new locks, and does nothing by halves. Locks can be
// removed all the same.
func TestStore_FullRedis(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.track(t, b.at(id(1), -h), b.at(id(2), -h), b.at(id(3), -h))
	if _, err := claim(-h)(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := b.rdb.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.store.Track(t.Context(), []locks.TrackRequest{b.at(id(4), h)}); err == nil {
		t.Error("tracked although Redis is full; want an error")
	}
	if got := b.where(t, id(4)); got != "" {
		t.Errorf("it was refused, and is in %q; want it nowhere", got)
	}
	if c, err := b.store.Claim(t.Context(), id(2), b.start, h); err == nil && b.where(t, id(2)) != "swept -1h0m0s claimed" {
		t.Errorf("%+v; want the claim in the ledger", c)
	}
	if err := b.store.MarkSwept(t.Context(), []tasks.Lock{b.lock(id(3), -h)}); err == nil && b.where(t, id(3)) != "swept -1h0m0s" {
		t.Error("MarkSwept answered, and the lock is not in swept")
	}
	if _, err := released(t.Context(), b); err != nil {
		t.Error(err)
	}
	if _, err := b.store.Forget(t.Context(), []tasks.LockID{id(2)}); err != nil {
		t.Error(err)
	}
	if counts := b.counts(t, 0); counts.Total != 1 {
		t.Errorf("%+v; want one left", counts)
	}
	if got := b.where(t, id(3)); got != "swept -1h0m0s" && got != "expiry -1h0m0s" {
		t.Errorf("it is in %q; want it in one of expiry and swept", got)
	}
}

func (b *bundle) counts(tb testing.TB, grace time.Duration) locks.Counts {
	tb.Helper()
	counts, err := b.store.Counts(tb.Context(), grace)
	if err != nil {
		tb.Fatal(err)
	}
	return counts
}
