package gate

import (
	"math"
	"time"

	"golang.org/x/time/rate"
)

// pacer decides when the next call may be made, by this worker's share of the
// fleet's rate and by the ramp after a closure. The gate's lock guards it.
//
// Both are one token bucket whose limit moves. It starts empty, and holds no more than a tenth of a second's worth: enough to make up for a
// timer that fires late, too little to be seen as a burst.
type pacer struct {
	rate     float64 // of the fleet; 0 for no limit
	rampFrom float64 // of the fleet, calls per second

	live    int
	share   float64   // of rate, and this worker's
	rising  int       // the number of workers that will let the share grow,
	riseAt  time.Time // then, if that number stays
	ramp    time.Time // when the latest ramp began; zero for never
	bucket  *rate.Limiter
	current float64 // the bucket's limit
}

const (
	// settle is how long a lower number of workers must stand before this one
	// takes a larger share. The others must hear of a newcomer within it.
	settle = time.Second
	// rampSteps is how often a ramp doubles before it is over: from 10 to
	// 10,240 calls a second, more than one process makes.
	rampSteps = 10
)

func newPacer(cfg Config) *pacer {
	return &pacer{rate: cfg.Rate, rampFrom: cfg.RampFrom, live: 1, bucket: rate.NewLimiter(0, 0), current: -1}
}

// setLive takes notice of the number of live workers. A gate without others
// has its whole rate from the start.
func (p *pacer) setLive(now time.Time, live int, lonely bool) {
	p.live = live
	share := p.rate / float64(live)
	switch {
	case share <= p.share || lonely:
		p.share, p.rising = share, 0
	case p.rising != live:
		p.rising, p.riseAt = live, now.Add(settle)
	case !now.Before(p.riseAt):
		p.share, p.rising = share, 0
	}
}

// restart begins a ramp.
func (p *pacer) restart(at time.Time) { p.ramp, p.current = at, -1 }

// ramped returns the calls per second that the ramp allows now, or Inf. A
// worker starts with its share of the ramp, though with one call a second at
// least.
func (p *pacer) ramped(now time.Time) float64 {
	step := math.Floor(now.Sub(p.ramp).Seconds())
	if p.ramp.IsZero() || step >= rampSteps {
		return math.Inf(1)
	}
	return max(p.rampFrom/float64(p.live), 1) * math.Exp2(max(step, 0))
}

// nextStep returns when the ramp doubles.
func (p *pacer) nextStep(now time.Time) time.Time {
	return now.Add(time.Second - now.Sub(p.ramp)%time.Second)
}

// limit returns the calls per second that this worker may make now, or Inf.
func (p *pacer) limit(now time.Time) float64 {
	if p.rate == 0 {
		return p.ramped(now)
	}
	return min(p.share, p.ramped(now))
}

// window returns how many calls may be in flight now: during a ramp, one
// second's worth. Were an API that comes back slowly called at the ramp's rate
// alone, the calls that hang would pile up.
func (p *pacer) window(now time.Time) float64 { return math.Ceil(p.ramped(now)) }

// take takes a token, or returns the time until there is one.
func (p *pacer) take(now time.Time) time.Duration {
	limit := p.limit(now)
	switch {
	case math.IsInf(limit, 1):
		p.current = -1 // the bucket will be made anew
		return 0
	case limit == 0:
		return max(p.riseAt.Sub(now), time.Millisecond)
	}
	p.adjust(now, limit)
	if p.bucket.AllowN(now, 1) {
		return 0
	}
	missing := 1 - p.bucket.TokensAt(now)
	return time.Duration(math.Ceil(missing/limit*float64(time.Second))) + time.Nanosecond
}

// adjust moves the bucket's limit. A bucket without a past starts empty: a
// token that was not waited for would be one above the rate.
func (p *pacer) adjust(now time.Time, limit float64) {
	burst := max(1, int(math.Ceil(limit/10)))
	switch {
	case p.current < 0:
		p.bucket = rate.NewLimiter(rate.Limit(limit), burst)
		p.bucket.AllowN(now, burst)
	case p.current != limit:
		p.bucket.SetLimitAt(now, rate.Limit(limit))
		p.bucket.SetBurstAt(now, burst)
	}
	p.current = limit
}
