package gate

import "time"

// calls are the calls of one kind that have ended.
type calls struct {
	ended     uint64
	overQuota uint64 // that were answered with a 429
	lately    CallTimes
}

// CallTimes are how long calls took. The older a call is, the less it counts.
type CallTimes struct {
	Calls   float64 // without those that were answered with a 429
	Seconds float64 // that these took together
}

// Mean returns the seconds that a call took, 0 if that is not known.
func (t CallTimes) Mean() float64 {
	const few = 0.01 // of what was once a call
	if t.Calls < few {
		return 0
	}
	return t.Seconds / t.Calls
}

// lately is how many calls of all kinds count in CallTimes.
const lately = 1000

// took takes note of how long a call took. When there are many calls, all of them count
// half as much from then on.
func (g *Gate) took(kind Kind, d time.Duration) {
	t := &g.calls[kind].lately
	t.Calls++
	t.Seconds += d.Seconds()
	all := 0.0
	for _, c := range g.calls {
		all += c.lately.Calls
	}
	if all < lately {
		return
	}
	for _, c := range g.calls {
		c.lately.Calls /= 2
		c.lately.Seconds /= 2
	}
}
