package locks_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/tasks"
)

// claimed is a claim that a worker has taken.
type claimed struct {
	locks.Claim
	lock  int
	shift time.Duration // of the clock, when the claim was taken
	seen  int
	ends  int
	ended bool // by its worker
}

// model is the expected state of a lock. Its times are minutes.
type model struct {
	where  string // "", "expiry" or "swept"
	expiry int
	// claim is when the live claim ends, and owner the claim that can end it early.
	claim int
	owner *claimed
	// promised is the latest expiry that was promised to the holder since the lock
	// was tracked.
	promised int
}

type machine struct {
	*clock
	t      *testing.T
	store  *locks.Store
	now    int
	models []*model
	claims []*claimed
	// sweeps are the stale locks that sweeps have seen.
	sweeps []seenLock
}

type seenLock struct{ lock, expiry int }

func TestStore_BehavesLikeTheModel(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) func() *clock{"redis": aRedis, "miniredis": aMiniredis} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			again := start(t)
			rapid.Check(t, func(rt *rapid.T) {
				c := again()
				m := &machine{clock: c, t: t, store: locks.NewStore(c.rdb), models: []*model{{}, {}, {}}}
				rt.Repeat(map[string]func(*rapid.T){
					"": m.check, "track": m.tracks, "renew": m.renews, "renew2": m.renews, "forget": m.forgets, "sweep": m.stale, "swept": m.swept,
					"claim": m.claim, "claim2": m.claim, "unclaim": m.unclaim, "released": m.released, "by name": m.byName, "time": m.time, "drop": m.drop,
				})
			})
		})
	}
}

func (m *machine) at(minutes int) time.Time {
	return m.base.Add(time.Duration(minutes)*time.Minute - m.shift)
}

// live reports whether a worker may be releasing a lock. It does not rely on the
// model.
func (m *machine) live(lock int) bool {
	return slices.ContainsFunc(m.claims, func(c *claimed) bool { return c.lock == lock && !c.ended && c.ends > m.now })
}

func (m *machine) tracks(rt *rapid.T) { m.extend(rt, m.store.Track) }
func (m *machine) renews(rt *rapid.T) { m.extend(rt, m.store.Renew) }

// extend tracks or renews some locks at once. One may come twice.
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

// stale lists the stale locks, and remembers them.
func (m *machine) stale(rt *rapid.T) {
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

// seen draws a lock that a sweep has seen.
func (m *machine) seen(rt *rapid.T) seenLock {
	if len(m.sweeps) == 0 {
		rt.Skip("nothing was swept")
	}
	return m.sweeps[rapid.IntRange(0, len(m.sweeps)-1).Draw(rt, "seen")]
}

func (m *machine) swept(rt *rapid.T) {
	s := m.seen(rt)
	if err := m.store.MarkSwept(m.t.Context(), []tasks.Lock{{UserID: id(s.lock).UserID, LockID: id(s.lock).LockID, ExpiresAt: m.at(s.expiry)}}); err != nil {
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
	// The claim ends within the last minute before that, and no two end at once.
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
	c := &claimed{Claim: got, lock: s.lock, shift: m.shift, seen: s.expiry, ends: m.now + minutes}
	m.claims = append(m.claims, c)
	l.where = "swept"
	if alone := l.claim <= m.now; alone != (got.FencingToken != 0) {
		rt.Fatalf("fencing token %d; want one only if no other claim is live: %t", got.FencingToken, alone)
	} else if alone {
		l.claim, l.owner = c.ends, c
	} else {
		l.claim, l.owner = max(l.claim, c.ends), nil
	}
}

// end draws a claim whose worker has finished, perhaps not for the first time, and
// perhaps after the claim has ended by its time.
func (m *machine) end(rt *rapid.T) *claimed {
	if len(m.claims) == 0 {
		rt.Skip("nothing was claimed")
	}
	c := m.claims[rapid.IntRange(0, len(m.claims)-1).Draw(rt, "claim")]
	c.ended = true
	if l := m.models[c.lock]; l.owner == c {
		l.claim, l.owner = 0, nil
	}
	moved := m.shift - c.shift // fencing tokens are times in the ledger
	c.shift = m.shift
	if c.FencingToken != 0 {
		c.FencingToken -= moved.Milliseconds()
	}
	c.Seen = m.at(c.seen)
	return c
}

func (m *machine) unclaim(rt *rapid.T) {
	if err := m.store.Unclaim(m.t.Context(), m.end(rt).Claim); err != nil {
		rt.Fatal(err)
	}
}

func (m *machine) released(rt *rapid.T) {
	c := m.end(rt)
	if err := m.store.Released(m.t.Context(), c.Claim); err != nil {
		rt.Fatal(err)
	}
	if l := m.models[c.lock]; l.expiry <= c.seen {
		l.where, l.promised = "", 0
	}
}

func (m *machine) byName(rt *rapid.T) {
	n, l := m.one(rt)
	if err := m.store.Released(m.t.Context(), locks.Claim{ID: id(n)}); err != nil {
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
	if err != nil || is != counts {
		rt.Fatalf("%+v, %v; want %+v", is, err, counts)
	}
	if n := m.rdb.DBSize(m.t.Context()).Val(); n > 4 {
		rt.Fatalf("%d keys; want at most 4", n)
	}
	m.checkNames(rt, all)
}

// checkNames wants each lock that is in expiry or in swept, and no other, in names
// and in the list of its user.
func (m *machine) checkNames(rt *rapid.T, all []locks.Lock) {
	ctx := m.t.Context()
	members := append(m.rdb.ZRange(ctx, expiryKey, 0, -1).Val(), m.rdb.ZRange(ctx, sweptKey, 0, -1).Val()...)
	slices.Sort(members)
	if diff := cmp.Diff(members, m.rdb.ZRange(ctx, byUserKey, 0, -1).Val(), cmpopts.EquateEmpty()); diff != "" {
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
