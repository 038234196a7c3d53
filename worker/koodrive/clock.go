package koodrive

import (
	"net/http"
	"sync"
	"time"
)

const (
	// behindServer is how far X-Date stays behind the server's clock.
	behindServer = time.Second
	// behindLocal is how far it stays behind the local clock as long as the
	// server's is unknown.
	behindLocal = 2 * time.Second
	// clockMemory is how long an estimate counts at least. It counts at most twice
	// as long if answers arrive meanwhile.
	clockMemory = 5 * time.Minute
)

// serverClock keeps X-Date from being later than the server's clock, which
// KooDrive refuses.
//
// Every answer carries the server's time D, cut to the second, as it was before
// the answer arrived. Say it arrived when the local stopwatch stood at t. From
// then on the server's clock shows at least D + (stopwatch - t), whatever the
// latency was. D - t is the estimate: when the stopwatch stood at zero, the
// server's clock showed at least that. A stopwatch, unlike the local clock, is
// never set, so a step of the local clock changes nothing.
//
// Several servers behind one name may disagree, and the next call may reach any
// of them. So the lowest estimate counts. Time is divided into spans, and the
// lowest estimate of the current span and that of the one before are kept. If only
// one were kept, the slowest server would be forgotten while the second slowest,
// which answered a minute ago, is not known any more.
//
// An estimate may be wrong, since a server's clock was set forward for instance.
// Then the call is refused, and the refusal's own Date replaces what was known.
type serverClock struct {
	now     func() time.Time     // the local clock, before anything is learned
	elapsed func() time.Duration // the local stopwatch

	mu       sync.Mutex
	lowest   time.Time     // the lowest estimate of this span, zero before the first answer
	previous time.Time     // the lowest estimate of the span before, if there was one
	began    time.Duration // when this span began
}

func newServerClock() *serverClock {
	start := time.Now() // carries the monotonic reading that makes time.Since a stopwatch
	return &serverClock{now: time.Now, elapsed: func() time.Duration { return time.Since(start) }}
}

// date is the value for X-Date.
func (c *serverClock) date() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lowest.IsZero() {
		return c.now().UTC().Add(-behindLocal)
	}
	lowest := c.lowest
	if !c.previous.IsZero() && c.previous.Before(lowest) {
		lowest = c.previous
	}
	return lowest.Add(c.elapsed() - behindServer)
}

// estimate takes the estimate from an answer that has just arrived.
func (c *serverClock) estimate(header http.Header) (estimate time.Time, ok bool) {
	date, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return time.Time{}, false
	}
	return date.UTC().Add(-c.elapsed()), true
}

// learn adds an estimate. One from a refusal replaces all others.
func (c *serverClock) learn(estimate time.Time, refused bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch now := c.elapsed(); {
	case refused || c.lowest.IsZero():
		c.lowest, c.previous, c.began = estimate, time.Time{}, now
	case now-c.began > clockMemory:
		c.lowest, c.previous, c.began = estimate, c.lowest, now
	case estimate.Before(c.lowest):
		c.lowest = estimate
	}
}
