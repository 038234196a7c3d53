package gate

import (
	"math"
	"time"

	"golang.org/x/time/rate"
)

// pacer decides when the next call may be made, by this worker's share of the
// fleet's rate and by the ramp after an outage. The gate's lock guards it.
//
// Share and ramp use one token bucket whose limit changes. The bucket starts empty,
// and holds at most the calls of a tenth of a second. That is enough to make up for
// a timer that fires late, and too few for a burst.
type pacer struct {
	rate        float64 // of the fleet; 0 for no limit
	live        int
	share       float64       // this worker's, of rate
	pendingLive int           // the lower number of live workers that the share does not follow yet; 0: none
	raiseAt     time.Time     // when the share follows pendingLive, if that does not change
	rampBegan   time.Time     // the latest ramp; zero for never
	bucket      *rate.Limiter // nil: a new one is needed
}

const (
	// raiseDelay is how long the number of workers must stay lower before this
	// worker takes a larger share. It must be longer than the others need to learn of
	// a new worker.
	raiseDelay = time.Second
	// rampFrom is the number of calls a second with which the fleet starts again
	// after an outage. It doubles every second.
	rampFrom = 10
	// rampSteps is how often a ramp doubles before it is over: from 10 to
	// 10,240 calls a second, more than one process makes.
	rampSteps = 10
)

// setLive sets the number of live workers. A gate without a fleet has the whole rate
// from the start.
func (p *pacer) setLive(now time.Time, live int, isSolo bool) {
	p.live = live
	share := p.rate / float64(live)
	switch {
	case share <= p.share || isSolo:
		p.share, p.pendingLive = share, 0
	case p.pendingLive != live:
		p.pendingLive, p.raiseAt = live, now.Add(raiseDelay)
	case !now.Before(p.raiseAt):
		p.share, p.pendingLive = share, 0
	}
}

// restart begins a ramp.
func (p *pacer) restart(at time.Time) { p.rampBegan, p.bucket = at, nil }

// rampLimit returns the calls per second that the ramp allows now, or Inf. A
// worker starts with its share of the ramp, and with at least one call a second.
func (p *pacer) rampLimit(now time.Time) float64 {
	step := math.Floor(now.Sub(p.rampBegan).Seconds())
	if p.rampBegan.IsZero() || step >= rampSteps {
		return math.Inf(1)
	}
	return max(rampFrom/float64(p.live), 1) * math.Exp2(max(step, 0))
}

// nextDoubling returns when the ramp doubles.
func (p *pacer) nextDoubling(now time.Time) time.Time {
	return now.Add(time.Second - now.Sub(p.rampBegan)%time.Second)
}

// limit returns the calls per second that this worker may make now, or Inf.
func (p *pacer) limit(now time.Time) float64 {
	if p.rate == 0 {
		return p.rampLimit(now)
	}
	return min(p.share, p.rampLimit(now))
}

// maxInFlight returns how many calls may be in flight now: during a ramp, the
// calls of one second. The ramp's rate alone would let calls pile up if an API
// that comes back answers slowly.
func (p *pacer) maxInFlight(now time.Time) float64 { return math.Ceil(p.rampLimit(now)) }

// take takes a token, or returns the time until there is one.
func (p *pacer) take(now time.Time) time.Duration {
	limit := p.limit(now)
	switch {
	case math.IsInf(limit, 1):
		p.bucket = nil
		return 0
	case limit == 0:
		return max(p.raiseAt.Sub(now), time.Millisecond)
	}
	p.setLimit(now, limit)
	if p.bucket.AllowN(now, 1) {
		return 0
	}
	missing := 1 - p.bucket.TokensAt(now)
	return time.Duration(math.Ceil(missing/limit*float64(time.Second))) + time.Nanosecond
}

// setLimit sets the bucket's limit. A new bucket starts empty, since tokens from the
// start would allow more calls than the rate.
func (p *pacer) setLimit(now time.Time, limit float64) {
	burst := max(1, int(math.Ceil(limit/10)))
	switch {
	case p.bucket == nil:
		p.bucket = rate.NewLimiter(rate.Limit(limit), burst)
		p.bucket.AllowN(now, burst)
	case p.bucket.Limit() != rate.Limit(limit):
		p.bucket.SetLimitAt(now, rate.Limit(limit))
		p.bucket.SetBurstAt(now, burst)
	}
}
