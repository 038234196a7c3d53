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
	// clockMemory is how long an estimate counts.
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
// of them: the lowest estimate of the last five minutes counts. Where that was
// wrong, since a server's clock was set forward for instance, the call is
// refused, and the refusal's own Date replaces what was known.
type serverClock struct {
	wall  func() time.Time     // the local clock, before anything is learned
	watch func() time.Duration // the local stopwatch

	mu sync.Mutex
	// estimates are those that are or may become the lowest: from oldest to
	// newest their values rise. So there is at most a handful, however many
	// answers arrive.
	estimates []estimate
}

type estimate struct {
	zero time.Time     // the server's clock, at least, when the stopwatch stood at zero
	at   time.Duration // when it was learned
}

func newServerClock() *serverClock {
	start := time.Now() // carries the monotonic reading that makes time.Since a stopwatch
	return &serverClock{wall: time.Now, watch: func() time.Duration { return time.Since(start) }}
}

// date is the value for X-Date.
func (c *serverClock) date() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.watch()
	c.expire(now)
	if len(c.estimates) == 0 {
		return c.wall().UTC().Add(-behindLocal)
	}
	return c.estimates[0].zero.Add(now - behindServer)
}

// read takes the estimate from an answer that has just arrived.
func (c *serverClock) read(header http.Header) (e estimate, ok bool) {
	date, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return estimate{}, false
	}
	now := c.watch()
	return estimate{zero: date.UTC().Add(-now), at: now}, true
}

// learn adds an estimate. One from a refusal replaces all others.
func (c *serverClock) learn(e estimate, refused bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	keep := len(c.estimates)
	for keep > 0 && (refused || !c.estimates[keep-1].zero.Before(e.zero)) {
		keep-- // older and not lower: never the lowest again
	}
	c.estimates = append(c.estimates[:keep], e)
	c.expire(e.at)
}

// expire drops what is too old. The newest estimate stays: after a quiet hour
// it is still a better guess than the local clock.
func (c *serverClock) expire(now time.Duration) {
	for len(c.estimates) > 1 && now-c.estimates[0].at > clockMemory {
		c.estimates = c.estimates[1:]
	}
}
