package locks_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/tasks"
)

// clock is a Redis whose time the test moves. Only minutes count: it begins half
// a minute past the base, and expiries are whole minutes.
type clock struct {
	rdb redis.UniversalClient
	// advance moves the time.
	advance func(rt *rapid.T, minutes int)
	// shift is how far the ledger lies behind the time of the test.
	shift time.Duration
	base  time.Time
}

// aMiniredis has a clock that can be set.
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

// aRedis has not: all times in the ledger are moved into the past.
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

// claimed is a claim that some worker had.
type claimed struct {
	locks.Claim
	lock  int
	shift time.Duration // when it was made
	seen  int
	over  int
	ended bool
}

// model is what a lock should be; its times are minutes.
type model struct {
	where  string // "", "expiry" or "swept"
	expiry int
	// claim is the live claim's end, and owner the one who can give it back.
	claim int
	owner *claimed
	// promised is the latest expiry that its holder was promised since it was
	// tracked.
	promised int
}

type machine struct {
	*clock
	t      *testing.T
	store  *locks.Store
	now    int
	models []*model
	claims []*claimed
	// sweeps are what the sweeps have seen.
	sweeps []seenLock
}

type seenLock struct{ lock, expiry int }

func TestTheLedgerIsWhatTheModelIs(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) func() *clock{"redis": aRedis, "miniredis": aMiniredis} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			again := start(t)
			rapid.Check(t, func(rt *rapid.T) {
				c := again()
				m := &machine{clock: c, t: t, store: locks.NewStore(c.rdb), models: []*model{{}, {}, {}}}
				rt.Repeat(map[string]func(*rapid.T){
					"": m.check, "track": m.tracks, "renew": m.renews, "renew2": m.renews, "forget": m.forgets, "sweep": m.sweeps1, "swept": m.swept,
					"claim": m.claim, "claim2": m.claim, "give back": m.giveBack, "released": m.released, "by name": m.byName, "time": m.time, "drop": m.drop,
				})
			})
		})
	}
}

func (m *machine) at(minutes int) time.Time {
	return m.base.Add(time.Duration(minutes)*time.Minute - m.shift)
}

// live reports whether a worker may be releasing a lock: this is counted apart
// from the model.
func (m *machine) live(lock int) bool {
	return slices.ContainsFunc(m.claims, func(c *claimed) bool { return c.lock == lock && !c.ended && c.over > m.now })
}

func (m *machine) tracks(rt *rapid.T) { m.extend(rt, m.store.Track) }
func (m *machine) renews(rt *rapid.T) { m.extend(rt, m.store.Renew) }

// extend is about some locks at once, among which one may come twice.
func (m *machine) extend(rt *rapid.T, do extender) {
	which := rapid.SliceOfN(rapid.IntRange(0, len(m.models)-1), 1, 4).Draw(rt, "locks")
	entries, want := make([]locks.TrackRequest, len(which)), make([]locks.Status, len(which))
	promised := make([]int, len(which))
	for i, n := range which {
		at := m.now + rapid.IntRange(-8, 8).Draw(rt, "expiry")
		entries[i] = locks.TrackRequest{UserID: id(n).UserID, LockID: id(n).LockID, ExpiresAt: m.at(at)}
		want[i], promised[i] = m.models[n].extend(m.now, at), at
	}
	got, err := do(m.t.Context(), entries)
	if err != nil || !slices.Equal(got, want) {
		rt.Fatalf("%v: %q, %v; want %q", which, got, err, want)
	}
	for i, n := range which {
		switch got[i] {
		case locks.Tracked, locks.Renewed, locks.Unchanged:
			if m.live(n) {
				rt.Fatalf("lock %d: %s while a worker may be releasing it", n, got[i])
			}
			m.models[n].promised = max(m.models[n].promised, promised[i])
		default:
		}
	}
}

func (l *model) extend(now, at int) locks.Status {
	switch {
	case l.claim > now:
		return locks.Releasing
	case l.where == "":
		*l = model{where: "expiry", expiry: at, promised: at}
		return locks.Tracked
	case at > l.expiry:
		l.where, l.expiry = "expiry", at
		return locks.Renewed
	case l.where == "swept":
		return locks.Swept
	default:
		return locks.Unchanged
	}
}

func (m *machine) one(rt *rapid.T) (int, *model) {
	n := rapid.IntRange(0, len(m.models)-1).Draw(rt, "lock")
	return n, m.models[n]
}

func (m *machine) forgets(rt *rapid.T) {
	n, l := m.one(rt)
	want := locks.Forgotten
	if l.where == "" {
		want = locks.Unknown
	}
	got, err := m.store.Forget(m.t.Context(), []tasks.LockID{id(n)})
	if err != nil || !slices.Equal(got, []locks.Status{want}) {
		rt.Fatalf("%q, %v; want %q", got, err, want)
	}
	l.where, l.promised = "", 0
}

// sweeps1 looks for what is stale, and remembers it.
func (m *machine) sweeps1(rt *rapid.T) {
	grace := rapid.IntRange(0, 4).Draw(rt, "grace")
	var want, got []tasks.Lock
	for n, l := range m.models {
		if l.where == "expiry" && l.expiry+grace <= m.now {
			want = append(want, tasks.Lock{UserID: id(n).UserID, LockID: id(n).LockID, ExpiresAt: m.at(l.expiry)})
			m.sweeps = append(m.sweeps, seenLock{n, l.expiry})
		}
	}
	for lock, err := range m.store.Stale(m.t.Context(), time.Duration(grace)*time.Minute) {
		if err != nil {
			rt.Fatal(err)
		}
		got = append(got, lock)
	}
	sorted(want)
	if diff := cmp.Diff(want, got); diff != "" {
		rt.Fatalf("stale (-want +got):\n%s", diff)
	}
}

func sorted(all []tasks.Lock) {
	slices.SortFunc(all, func(a, b tasks.Lock) int {
		if c := a.ExpiresAt.Compare(b.ExpiresAt); c != 0 {
			return c
		}
		return slices.Compare([]string{a.UserID, a.LockID}, []string{b.UserID, b.LockID})
	})
}

// seen draws what some sweep has seen.
func (m *machine) seen(rt *rapid.T) seenLock {
	if len(m.sweeps) == 0 {
		rt.Skip("nothing was swept")
	}
	return m.sweeps[rapid.IntRange(0, len(m.sweeps)-1).Draw(rt, "seen")]
}

func (m *machine) swept(rt *rapid.T) {
	s := m.seen(rt)
	if err := m.store.Swept(m.t.Context(), []tasks.Lock{{UserID: id(s.lock).UserID, LockID: id(s.lock).LockID, ExpiresAt: m.at(s.expiry)}}); err != nil {
		rt.Fatal(err)
	}
	if l := m.models[s.lock]; l.where == "expiry" && l.expiry == s.expiry {
		l.where = "swept"
	}
}

func (m *machine) claim(rt *rapid.T) {
	s := m.seen(rt)
	l := m.models[s.lock]
	minutes := rapid.IntRange(1, 6).Draw(rt, "hold")
	// It is over within the last minute before that, and no two at once.
	hold := time.Duration(minutes)*time.Minute - 55*time.Second + time.Duration(len(m.claims)%41)*time.Second
	got, err := m.store.Claim(m.t.Context(), id(s.lock), m.at(s.expiry), hold)
	if err != nil {
		rt.Fatal(err)
	}
	want := locks.Claimed
	switch {
	case l.where == "":
		want = locks.Forgotten
	case l.expiry > s.expiry:
		want = locks.Renewed
	}
	if got.Status != want {
		rt.Fatalf("%s; want it %s", got.Status, want)
	}
	if want != locks.Claimed {
		return
	}
	if l.promised > s.expiry {
		rt.Fatalf("lock %d was claimed with %d, and its holder was promised %d", s.lock, s.expiry, l.promised)
	}
	c := &claimed{Claim: got, lock: s.lock, shift: m.shift, seen: s.expiry, over: m.now + minutes}
	m.claims = append(m.claims, c)
	l.where = "swept"
	if alone := l.claim <= m.now; alone != (got.FencingToken != 0) {
		rt.Fatalf("ticket %d; want it to be alone: %t", got.FencingToken, alone)
	} else if alone {
		l.claim, l.owner = c.over, c
	} else {
		l.claim, l.owner = max(l.claim, c.over), nil
	}
}

// end draws a claim whose worker has finished, at any time, perhaps again. What
// comes too late has come to its end by time.
func (m *machine) end(rt *rapid.T) *claimed {
	if len(m.claims) == 0 {
		rt.Skip("nothing was claimed")
	}
	c := m.claims[rapid.IntRange(0, len(m.claims)-1).Draw(rt, "claim")]
	c.ended = true
	if l := m.models[c.lock]; l.owner == c {
		l.claim, l.owner = 0, nil
	}
	moved := m.shift - c.shift // so are the tickets of a Redis whose clock was moved
	c.shift = m.shift
	if c.FencingToken != 0 {
		c.FencingToken -= moved.Milliseconds()
	}
	c.Seen = m.at(c.seen)
	return c
}

func (m *machine) giveBack(rt *rapid.T) {
	if err := m.store.Unclaim(m.t.Context(), m.end(rt).Claim); err != nil {
		rt.Fatal(err)
	}
}

func (m *machine) released(rt *rapid.T) {
	c := m.end(rt)
	if err := m.store.Released(m.t.Context(), []locks.Claim{c.Claim}); err != nil {
		rt.Fatal(err)
	}
	if l := m.models[c.lock]; l.expiry <= c.seen {
		l.where, l.promised = "", 0
	}
}

func (m *machine) byName(rt *rapid.T) {
	n, l := m.one(rt)
	if err := m.store.Released(m.t.Context(), []locks.Claim{{ID: id(n)}}); err != nil {
		rt.Fatal(err)
	}
	l.where, l.promised = "", 0
}

func (m *machine) time(rt *rapid.T) {
	minutes := rapid.IntRange(1, 5).Draw(rt, "minutes")
	m.advance(rt, minutes)
	m.now += minutes
}

func (m *machine) drop(rt *rapid.T) {
	keep := rapid.IntRange(0, 20).Draw(rt, "keep")
	var want int64
	for _, l := range m.models {
		if l.where == "swept" && l.expiry+keep <= m.now {
			l.where, l.promised = "", 0
			want++
		}
	}
	if got, err := m.store.Drop(m.t.Context(), time.Duration(keep)*time.Minute); err != nil || got != want {
		rt.Fatalf("dropped %d, %v; want %d", got, err, want)
	}
	live := 0
	for _, l := range m.models {
		if l.claim > m.now {
			live++
		}
	}
	if got := m.rdb.ZCard(m.t.Context(), claimsKey).Val(); got != int64(live) {
		rt.Fatalf("%d claims are left; want %d", got, live)
	}
}

// check compares the ledger with the models.
func (m *machine) check(rt *rapid.T) {
	var want, swept []tasks.Lock
	var got []locks.Lock
	counts := locks.Counts{}
	for n, l := range m.models {
		lock := tasks.Lock{UserID: id(n).UserID, LockID: id(n).LockID, ExpiresAt: m.at(l.expiry)}
		switch l.where {
		case "expiry":
			want = append(want, lock)
			counts.Total++
			if l.expiry <= m.now {
				counts.Stale++
			}
		case "swept":
			swept = append(swept, lock)
			counts.Total++
			counts.Swept++
		}
	}
	sorted(want)
	sorted(swept)
	for lock, err := range m.store.List(m.t.Context(), locks.Filter{}) {
		if err != nil {
			rt.Fatal(err)
		}
		got = append(got, lock)
	}
	var all []locks.Lock
	for i, lock := range append(swept, want...) {
		all = append(all, locks.Lock{Lock: lock, Swept: i < len(swept)})
	}
	if diff := cmp.Diff(all, got); diff != "" {
		rt.Fatalf("the ledger (-want +got):\n%s", diff)
	}
	is, err := m.store.Counts(m.t.Context(), 0)
	is.Now = time.Time{}
	if err != nil || is != counts {
		rt.Fatalf("%+v, %v; want %+v", is, err, counts)
	}
	if n := m.rdb.DBSize(m.t.Context()).Val(); n > 4 {
		rt.Fatal(fmt.Sprint(n, " keys"))
	}
	m.checkNames(rt, all)
}

// checkNames: a lock has a name exactly while it is in expiry or in swept, and is
// found by its user.
func (m *machine) checkNames(rt *rapid.T, all []locks.Lock) {
	ctx := m.t.Context()
	members := append(m.rdb.ZRange(ctx, expiryKey, 0, -1).Val(), m.rdb.ZRange(ctx, sweptKey, 0, -1).Val()...)
	slices.Sort(members)
	if diff := cmp.Diff(members, m.rdb.ZRange(ctx, namesKey, 0, -1).Val(), cmpopts.EquateEmpty()); diff != "" {
		rt.Fatalf("names (-locks +names):\n%s", diff)
	}
	for n := range m.models {
		user := id(n).UserID
		want := slices.DeleteFunc(slices.Clone(all), func(l locks.Lock) bool { return l.UserID != user })
		got, err := m.store.ListByUser(ctx, user)
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); err != nil || diff != "" {
			rt.Fatalf("%s: %v (-want +got):\n%s", user, err, diff)
		}
	}
}
