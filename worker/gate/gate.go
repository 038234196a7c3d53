package gate

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// Gate admits calls to the API. It is safe for concurrent use.
type Gate struct {
	cfg Config

	mu        sync.Mutex // guards what follows
	breakers  map[Kind]*breaker
	pacer     *pacer
	live      int       // workers of the fleet
	news      *News     // the latest of the fleet
	goodUser  string    // a user whose call has succeeded; "" if none has
	lastCheck *check    // the latest, or the one under way
	waiters   []*waiter // the longest wait first
	timer     *time.Timer
	waiting   map[Kind]int  // of waiters
	wake      chan struct{} // wakes Pace
	// expectedBy is when the last of the tasks that were put back comes again.
	expectedBy map[Kind]time.Time
	users      *refusedUsers
	inFlight   int
	stopped    bool
	calls      map[Kind]*calls
	refused    map[Cause]uint64 // tasks
}

// New checks a configuration and returns a Gate. Nothing runs until it is used.
func New(cfg Config) (*Gate, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	_, isSolo := cfg.Fleet.(solo)
	g := &Gate{
		cfg: cfg, pacer: newPacer(cfg.Rate, isSolo), live: 1, breakers: make(map[Kind]*breaker), users: newRefusedUsers(),
		waiting: make(map[Kind]int), expectedBy: make(map[Kind]time.Time), wake: make(chan struct{}, 1), calls: make(map[Kind]*calls), refused: make(map[Cause]uint64),
	}
	for _, kind := range Kinds() {
		g.breakers[kind], g.calls[kind] = newBreaker(g, kind), &calls{}
		g.expect(kind, time.Now()) // a quota may have been used up before this process began
	}
	return g, nil
}

// Acquire waits until a call may be made. It returns either a permit, which the
// caller must end, or a refusal. After a refusal the caller must not call, and must
// put the task back uncharged.
func (g *Gate) Acquire(ctx context.Context, call Call) (*Permit, *Refusal) {
	start := time.Now()
	w := &waiter{call: call, decided: make(chan struct{})}
	g.mu.Lock()
	if ctx.Err() != nil {
		defer g.mu.Unlock()
		return nil, g.refuse(start, call.Kind, g.interrupted(call))
	}
	if until, held := g.users.held(start, call); held {
		defer g.mu.Unlock()
		return nil, g.refuse(start, call.Kind, blocker{cause: ByThrottle, kind: call.Kind, reason: tasks.Throttled, until: until})
	}
	wait := g.maxWait(call)
	w.deadline = start.Add(wait)
	g.waiters = append(g.waiters, w)
	g.waiting[call.Kind]++
	g.breakers[call.Kind].hurry(call.User)
	g.admit()
	g.mu.Unlock()

	select {
	case <-w.decided:
		return w.permit, w.refusal
	default:
	}
	limit := time.NewTimer(wait)
	defer limit.Stop()
	select {
	case <-w.decided:
	case <-ctx.Done():
	case <-limit.C:
	}

	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	permit, refusal := g.endWait(ctx, w, now)
	if permit != nil {
		permit.waited = now.Sub(start)
	}
	return permit, refusal
}

// knownWait is how long a task waits in an outage if it is of little use for a probe.
const knownWait = 500 * time.Millisecond

// maxWait returns how long a task may wait for its permit. A task is of little use for
// a probe if calls of its user have failed already, or if the user has another one that
// waits. It waits shorter, so that tasks of other users come forward.
func (g *Gate) maxWait(call Call) time.Duration {
	b := g.breakers[call.Kind]
	if b.state != Closed && (b.hasFailed(call.User) || slices.ContainsFunc(g.waiters, func(w *waiter) bool { return w.call.User == call.User })) {
		return min(knownWait, g.cfg.MaxWait)
	}
	return g.cfg.MaxWait
}

// probersWaiting is how many tasks should wait while a breaker is open. One of them is
// the next probe, and the others let users take turns.
const probersWaiting = 16

// Holds reports whether it is of no use to bring more tasks that make calls of this
// kind: they would be put back. During a short pause they wait here for its end.
func (g *Gate) Holds(kind Kind) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.refresh(now)
	return g.breakers[kind].state != Closed && len(g.waiters) >= probersWaiting || g.waiting[kind] >= g.pacer.kinds[kind].useful(now, g.live)
}

// Stop refuses at once every task that waits, and every later one. Calls in flight
// continue. Failures of which it is not clear what they are about are not charged.
func (g *Gate) Stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopped = true
	for _, b := range g.breakers {
		b.decide(func(*doubt) about { return anOutage })
	}
	g.admit()
}

func randDuration(low, high time.Duration) time.Duration {
	return low + rand.N(high-low+1) //nolint:gosec // spreading load, not guarding a secret
}
