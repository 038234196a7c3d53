package gate

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// Gate admits calls to the API. It is safe for concurrent use.
type Gate struct {
	maxWait, spread          time.Duration
	maxInFlight              int
	throttleMin, throttleMax time.Duration
	throttleCap              time.Duration
	fleet                    Fleet

	mu       sync.Mutex // guards what follows
	breaker  *breaker
	pacer    *pacer
	line     []*waiter // the first to come at the front
	waiting  int       // those in line who have not given up
	held     hold      // what the line waits for
	timer    *time.Timer
	inFlight int
	shut     time.Time // closed by throttling until then; zero when it is not
	stopped  bool
	tally    tally
}

// New checks a configuration and returns a Gate. Nothing runs until it is used.
func New(cfg Config) (*Gate, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	g := &Gate{
		maxWait: cfg.MaxWait, spread: cfg.Spread, maxInFlight: cfg.MaxInFlight,
		throttleMin: cfg.ThrottleMin, throttleMax: cfg.ThrottleMax, throttleCap: cfg.ThrottleCap,
		fleet: cfg.Fleet, pacer: newPacer(cfg),
		tally: tally{refused: make(map[Cause]uint64)},
	}
	g.breaker = newBreaker(cfg, g.pacer.restart)
	return g, nil
}

// Answer is what the gate needs to know of a call's end.
type Answer struct {
	Reason     tasks.Reason
	RetryAfter time.Duration // 0: the answer named no time
}

// Do makes a call as soon as it may be made. It returns nil if the answer of
// the call is an answer to this task. Otherwise the task is to be put back
// uncharged, whether or not the call was made: Refusal.Called tells.
//
// A panic of call passes through, and frees its place.
func (g *Gate) Do(ctx context.Context, call func(context.Context) Answer) (refusal *Refusal) {
	p, refusal := g.enter(ctx)
	if refusal != nil {
		return refusal
	}
	answer := Answer{Reason: tasks.Panicked} // unless call returns
	defer func() { refusal = g.leave(ctx, p, answer) }()
	answer = call(ctx)
	return nil
}

// hungUp stands for the answer that nobody waited for. Its sense is neither.
const hungUp tasks.Reason = ""

// leave ends a call.
func (g *Gate) leave(ctx context.Context, p pass, a Answer) *Refusal {
	reason := a.Reason
	if senseOf(reason) == failure && errors.Is(ctx.Err(), context.Canceled) {
		// We hung up. That KooDrive did not answer in time would be news; that
		// a shutdown or an operator did not wait for it is none.
		reason = hungUp
	}
	g.mu.Lock()
	now := time.Now()
	g.inFlight--
	outage := g.breaker.leave(now, p, reason)
	var news time.Duration
	if reason == tasks.Throttled {
		news = g.throttle(now, a.RetryAfter)
	}
	var refusal *Refusal
	switch {
	case reason == tasks.Throttled:
		refusal = g.refuse(now, hold{cause: ByThrottle, reason: reason, until: g.shut}, true)
	case outage:
		refusal = g.refuse(now, hold{cause: ByBreaker, reason: reason, until: g.breaker.due}, true)
	}
	g.admit()
	g.mu.Unlock()
	if news > 0 {
		g.fleet.Close(ctx, news)
	}
	return refusal
}

// throttle closes the gate, and returns for how long the fleet must hear of
// it. When one call in flight is throttled, so are most: the others add
// nothing, unless they name a time that is clearly later.
func (g *Gate) throttle(now time.Time, wait time.Duration) time.Duration {
	g.tally.throttled++
	already := now.Before(g.shut)
	if wait <= 0 {
		if already {
			return 0
		}
		wait = between(g.throttleMin, g.throttleMax)
	}
	wait = min(wait, g.throttleCap)
	const clearly = time.Second // Retry-After is in whole seconds
	if already && now.Add(wait).Before(g.shut.Add(clearly)) {
		return 0
	}
	g.shut = now.Add(wait)
	return wait
}

// Stop refuses all who wait, and all who come, at once. Calls in flight go on.
func (g *Gate) Stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopped = true
	g.admit()
}

func between(low, high time.Duration) time.Duration {
	return low + rand.N(high-low+1) //nolint:gosec // spreading load, not guarding a secret
}
