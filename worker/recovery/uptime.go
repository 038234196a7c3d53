package recovery

import (
	"time"

	"github.com/kooworker/kooworker/internal/asynqx"
)

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

// The masters of a cluster fail one by one, so that the one with the lock may answer while
// those with a queue or with the list of servers do not. Nothing may be reaped that nobody
// could extend meanwhile, nor because of heartbeats that nobody could send. So on a cluster
// each of them has an uptime of its own. A single Redis has one for everything.

// reached notes that the master of a queue or of the list of servers has answered in this
// pass.
func (r *Repairer) reached(what string) {
	if !r.isCluster {
		return
	}
	u := r.uptimes[what]
	u.answered(r.uptime.last)
	r.uptimes[what] = u
}

// relevant are the uptimes that matter for a queue.
func (r *Repairer) relevant(q queue) []redisUptime {
	if !r.isCluster {
		return []redisUptime{r.uptime}
	}
	return []redisUptime{r.uptime, r.uptimes[q.name], r.uptimes[asynqx.AllServersKey]}
}

// upFor reports whether all that matters for a queue has answered for so long without an
// outage.
func (r *Repairer) upFor(q queue, d time.Duration) bool {
	for _, u := range r.relevant(q) {
		if !u.upFor(d) {
			return false
		}
	}
	return true
}

// downSince reports whether something that matters for a queue was away at some moment
// after t.
func (r *Repairer) downSince(q queue, t time.Time) bool {
	for _, u := range r.relevant(q) {
		if u.downSince(t) {
			return true
		}
	}
	return false
}

// isSilent reports whether an error says that a master of a cluster does not answer. Others
// may.
func (r *Repairer) isSilent(err error) bool {
	return err != nil && r.isCluster && asynqx.IsUnavailable(err)
}
