package gate

import (
	"math"
	"time"

	"golang.org/x/time/rate"
)

const (
	// rampFrom is the number of calls a second with which the fleet starts again
	// after an outage. It doubles every second.
	rampFrom = 10
	// rampSteps is how often a ramp doubles before it is over: from 10 to
	// 10,240 calls a second, more than one process makes.
	rampSteps = 10
)

// ramp limits the calls of one kind after an outage. The gate's lock guards it.
type ramp struct {
	began  time.Time     // zero for never
	bucket *rate.Limiter // nil: a new one is needed
}

// restart begins a ramp.
func (r *ramp) restart(at time.Time) { r.began, r.bucket = at, nil }

// limit returns the calls per second that the ramp allows now, or Inf. A worker
// starts with its share of the ramp, and with at least one call a second.
func (r *ramp) limit(now time.Time, live int) float64 {
	step := math.Floor(now.Sub(r.began).Seconds())
	if r.began.IsZero() || step >= rampSteps {
		return math.Inf(1)
	}
	return max(rampFrom/float64(live), 1) * math.Exp2(max(step, 0))
}

// nextDoubling returns when the ramp doubles.
func (r *ramp) nextDoubling(now time.Time) time.Time {
	return now.Add(time.Second - now.Sub(r.began)%time.Second)
}

// wait returns the time until the ramp allows a call.
func (r *ramp) wait(now time.Time, live int) time.Duration {
	limit := r.limit(now, live)
	if math.IsInf(limit, 1) {
		r.bucket = nil
		return 0
	}
	r.bucket = adjust(r.bucket, now, limit)
	return untilToken(r.bucket, now)
}

// take takes the token for a call that wait has allowed.
func (r *ramp) take(now time.Time) {
	if r.bucket != nil {
		r.bucket.AllowN(now, 1)
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
