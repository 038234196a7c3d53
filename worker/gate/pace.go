package gate

import (
	"math"
	"time"

	"golang.org/x/time/rate"
)

// pacer decides when the next call may be made, by this worker's share of the
// fleet's rate. The gate's lock guards it.
//
// The bucket starts empty, and holds at most the calls of a tenth of a second. That
// is enough to make up for a timer that fires late, and too few for a burst.
type pacer struct {
	rate        float64 // of the fleet; 0 for no limit
	share       float64 // this worker's, of rate
	pendingLive int     // the lower number of live workers that the share does not follow yet; 0: none
	raiseAt     time.Time
	bucket      *rate.Limiter
}

// raiseDelay is how long the number of workers must stay lower before this worker
// takes a larger share. It must be longer than the others need to learn of a new
// worker.
const raiseDelay = time.Second

// setLive sets the number of live workers. A gate without a fleet has the whole rate
// from the start.
func (p *pacer) setLive(now time.Time, live int, isSolo bool) {
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

// limit returns the calls per second that this worker may make now, or Inf.
func (p *pacer) limit() float64 {
	if p.rate == 0 {
		return math.Inf(1)
	}
	return p.share
}

// wait returns the time until the rate allows a call.
func (p *pacer) wait(now time.Time) time.Duration {
	limit := p.limit()
	switch {
	case math.IsInf(limit, 1):
		return 0
	case limit == 0:
		return max(p.raiseAt.Sub(now), time.Millisecond)
	}
	p.bucket = adjust(p.bucket, now, limit)
	return untilToken(p.bucket, now)
}

// take takes the token for a call that wait has allowed.
func (p *pacer) take(now time.Time) {
	if p.bucket != nil {
		p.bucket.AllowN(now, 1)
	}
}

// adjust returns the bucket with this limit. A new bucket starts empty, since tokens
// from the start would allow more calls than the rate.
func adjust(bucket *rate.Limiter, now time.Time, limit float64) *rate.Limiter {
	burst := max(1, int(math.Ceil(limit/10)))
	switch {
	case bucket == nil:
		bucket = rate.NewLimiter(rate.Limit(limit), burst)
		bucket.AllowN(now, burst)
	case bucket.Limit() != rate.Limit(limit):
		bucket.SetLimitAt(now, rate.Limit(limit))
		bucket.SetBurstAt(now, burst)
	}
	return bucket
}

// untilToken returns the time until the bucket has a token.
func untilToken(bucket *rate.Limiter, now time.Time) time.Duration {
	missing := 1 - bucket.TokensAt(now)
	if missing <= 0 {
		return 0
	}
	return time.Duration(math.Ceil(missing/float64(bucket.Limit())*float64(time.Second))) + time.Nanosecond
}
