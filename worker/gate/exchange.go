package gate

import (
	"context"
	"time"
)

// Pace keeps the tokens of this worker coming until ctx ends. Without it, a gate that
// has a fleet admits no call.
func (g *Gate) Pace(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			g.mu.Lock()
			ask := g.pacer.ask(time.Now(), nil)
			g.mu.Unlock()
			_, _ = g.cfg.Fleet.Exchange(context.WithoutCancel(ctx), ask) // the last counts; they are not missed much
			return
		case <-timer.C:
		case <-g.wake:
		}
		g.mu.Lock()
		now := time.Now()
		due := g.pacer.due(g.wanting())
		if due.After(now) {
			g.mu.Unlock()
			timer.Reset(due.Sub(now))
			continue
		}
		ask := g.pacer.ask(now, g.wanting())
		g.mu.Unlock()

		grant, err := g.cfg.Fleet.Exchange(ctx, ask)

		g.mu.Lock()
		now = time.Now()
		if err != nil {
			g.pacer.putBack(ask)
		} else {
			g.pacer.grant(now, grant)
		}
		g.admit()
		due = g.pacer.due(g.wanting())
		if err != nil {
			due = now.Add(askEvery)
		}
		g.mu.Unlock()
		timer.Reset(max(due.Sub(now), 0))
	}
}

// wanting returns how many tasks wait for tokens, by kind. While a breaker is not
// closed, one call is made at a time.
func (g *Gate) wanting() map[Kind]int {
	out := make(map[Kind]int, len(g.waiting))
	for kind, n := range g.waiting {
		if g.breakers[kind].state != Closed {
			n = min(n, 1)
		}
		out[kind] = n
	}
	return out
}

// exchange sees to it that the fleet is asked when that is due.
func (g *Gate) exchange(now time.Time) {
	s, isSolo := g.cfg.Fleet.(solo)
	switch {
	case g.pacer.due(g.wanting()).After(now):
	case isSolo:
		g.pacer.grant(now, s.book.Exchange(now, g.pacer.ask(now, g.wanting())))
	default:
		select {
		case g.wake <- struct{}{}:
		default:
		}
	}
}
