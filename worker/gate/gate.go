package gate

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// Gate admits calls to the API. It is safe for concurrent use.
type Gate struct {
	cfg Config

	mu             sync.Mutex // guards what follows
	breaker        *breaker
	pacer          *pacer
	waiters        []*waiter // the longest wait first
	blockedBy      blocker   // what the waiters wait for
	timer          *time.Timer
	inFlight       int
	throttledUntil time.Time // the end of the pause that KooDrive asked for; zero or past: no pause
	stopped        bool
	calls          uint64           // that have ended
	refused        map[Cause]uint64 // tasks
}

// New checks a configuration and returns a Gate. Nothing runs until it is used.
func New(cfg Config) (*Gate, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	g := &Gate{cfg: cfg, pacer: &pacer{rate: cfg.Rate, live: 1}, refused: make(map[Cause]uint64)}
	g.breaker = newBreaker(cfg, g.pacer.restart)
	return g, nil
}

// Acquire waits until a call may be made. It returns either a permit, which the
// caller must end, or a refusal. After a refusal the caller must not call, and must
// put the task back uncharged.
func (g *Gate) Acquire(ctx context.Context) (*Permit, *Refusal) {
	start := time.Now()
	w := &waiter{deadline: start.Add(g.cfg.MaxWait), decided: make(chan struct{})}
	g.mu.Lock()
	if ctx.Err() != nil {
		defer g.mu.Unlock()
		return nil, g.refuse(start, g.interrupted())
	}
	g.waiters = append(g.waiters, w)
	g.admit()
	g.mu.Unlock()

	select {
	case <-w.decided:
		return w.permit, w.refusal
	default:
	}
	limit := time.NewTimer(g.cfg.MaxWait)
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

// Stop refuses at once every task that waits, and every later one. Calls in flight
// continue.
func (g *Gate) Stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopped = true
	g.admit()
}

func randDuration(low, high time.Duration) time.Duration {
	return low + rand.N(high-low+1) //nolint:gosec // spreading load, not guarding a secret
}
