package recovery

import "time"

// maxGap is the longest time between two answers of Redis that is no break.
// asynq's heartbeats live for twice as long, and its leases six times.
const maxGap = 5 * time.Second

// contact remembers for how long Redis has been there. Its times are Redis' own,
// since those show a frozen Redis even to a client that waited patiently: the
// next answer comes with a jump.
type contact struct {
	since time.Time // the first answer after the latest break
	last  time.Time // the latest answer
	back  time.Time // when the latest break ended; zero if there was none
}

// touch notes an answer.
func (c *contact) touch(now time.Time) {
	switch {
	case c.last.IsZero():
		c.since = now
	case now.Sub(c.last) > maxGap, now.Before(c.last.Add(-time.Second)):
		// A clock that goes back is another server's, after a failover.
		c.since, c.back = now, now
	}
	c.last = now
}

// lasts reports whether Redis has been there for so long without a break.
func (c *contact) lasts(d time.Duration) bool { return c.last.Sub(c.since) >= d }

// brokenSince reports whether Redis was away at some moment after t.
func (c *contact) brokenSince(t time.Time) bool { return !c.back.IsZero() && !c.back.Before(t) }
