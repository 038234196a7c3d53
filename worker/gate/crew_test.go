package gate

import (
	"context"
	"sync"
	"time"
)

// crew is a fleet in memory. What a member sees of it is up to lag old, as it
// is with a loop that asks Redis.
type crew struct {
	mu        sync.Mutex
	live      int
	was       int // live, until changed + lag
	changed   time.Time
	lag       time.Duration
	shutUntil time.Time
	closes    []time.Duration
}

var _ Fleet = (*crew)(nil)

func newCrew() *crew { return &crew{live: 1, was: 1} }

func (c *crew) set(live int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.was, c.live, c.changed = c.live, live, time.Now()
}

// Close implements Fleet.
func (c *crew) Close(_ context.Context, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closes = append(c.closes, d)
	if until := time.Now().Add(d); until.After(c.shutUntil) {
		c.shutUntil = until
	}
}

// Snapshot implements Fleet.
func (c *crew) Snapshot() (live int, closedFor time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if live = c.live; time.Since(c.changed) < c.lag {
		live = c.was
	}
	return live, max(time.Until(c.shutUntil), 0)
}
