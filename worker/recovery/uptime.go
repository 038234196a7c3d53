package recovery

import "time"

// maxGap is the longest time between two answers of Redis that does not count as
// an outage. asynq's heartbeats last twice as long, and its leases six times.
const maxGap = 5 * time.Second

// redisUptime records since when Redis has answered without an outage, by Redis' own
// clock. So it sees that Redis was frozen even if no call failed: the time of the
// next answer jumps.
type redisUptime struct {
	since  time.Time // the first answer after the latest outage
	last   time.Time // the latest answer
	outage time.Time // when the latest outage ended; zero if there was none
}

// answered records an answer.
func (u *redisUptime) answered(now time.Time) {
	switch {
	case u.last.IsZero():
		u.since = now
	case now.Sub(u.last) > maxGap, now.Before(u.last.Add(-time.Second)):
		// A clock that goes back is another server's, after a failover.
		u.since, u.outage = now, now
	}
	u.last = now
}

// upFor reports whether Redis has answered for so long without an outage.
func (u *redisUptime) upFor(d time.Duration) bool { return u.last.Sub(u.since) >= d }

// downSince reports whether Redis was away at some moment after t.
func (u *redisUptime) downSince(t time.Time) bool { return !u.outage.IsZero() && !u.outage.Before(t) }
