package simulator

import (
	"math/bits"
	"slices"
)

// meter knows how much of a limit is left. Times are Unix times in nanoseconds and
// never go back. All of it is exact: there is no floating point.
type meter interface {
	// left is how many calls are granted if they come at once. It is negative
	// if a change has taken away what was already granted.
	left(now int64) int64
	// take uses up one call, after left has said for the same time that there is one.
	take(now int64)
	// moreAt is when more calls are left, if none are taken until then.
	moreAt(now int64) int64
	// setLimit changes the limit.
	setLimit(now int64, limit int)
	// unused reports whether the meter is like a new one.
	unused(now int64) bool
}

func newMeter(q *Quota, now int64, limit int) meter {
	period := int64(q.Period)
	switch q.Shape {
	case ShapeBucket:
		b := &bucket{period: period, burst: q.Burst}
		b.setLimit(now, limit)
		b.used = 0
		return b
	case ShapeFixed:
		return &fixedWindow{period: period, limit: int64(limit)}
	default:
		return &slidingWindow{period: period, limit: limit}
	}
}

// bucket was full, but for used calls and with a part of one more, at the time since.
type bucket struct {
	period int64
	burst  int // 0: the limit
	limit  uint64
	size   int64
	since  int64
	used   int64
	part   uint64 // of a call, in units of 1/period
}

// gained is how many calls the bucket has gained since the time since, and the part of
// the next one.
func (b *bucket) gained(now int64) (calls int64, part uint64) {
	high, low := bits.Mul64(uint64(now-b.since), b.limit) //nolint:gosec // time does not go back
	low, carry := bits.Add64(low, b.part, 0)
	// The quotient fits: the limit is at most 10⁹, and the period at least 10⁹ ns.
	quotient, part := bits.Div64(high+carry, low, uint64(b.period)) //nolint:gosec // positive
	return int64(quotient), part                                    //nolint:gosec // at most now-since+1
}

func (b *bucket) left(now int64) int64 {
	calls, _ := b.gained(now)
	if left := b.size - b.used + calls; left < b.size {
		return left
	}
	b.since, b.used, b.part = now, 0, 0 // it is full, and what it gains runs over
	return b.size
}

func (b *bucket) take(int64) { b.used++ }

func (b *bucket) moreAt(now int64) int64 {
	switch {
	case b.limit == 0:
		return now + b.period
	case b.left(now) == b.size:
		return now
	}
	calls, _ := b.gained(now)
	high, low := bits.Mul64(uint64(calls)+1, uint64(b.period)) //nolint:gosec // positive
	low, borrow := bits.Sub64(low, b.part, 0)
	wait, rest := bits.Div64(high-borrow, low, b.limit)
	if rest > 0 {
		wait++
	}
	return b.since + int64(wait) //nolint:gosec // the time until a call that comes within a period
}

func (b *bucket) setLimit(now int64, limit int) {
	left := b.left(now)
	_, b.part = b.gained(now)
	b.since, b.limit, b.size = now, uint64(limit), int64(limit) //nolint:gosec // not negative
	if b.burst > 0 {
		b.size = int64(b.burst)
	}
	b.used = max(0, b.size-left)
}

func (b *bucket) unused(now int64) bool { return b.left(now) == b.size }

// fixedWindow counts the calls of the window that began at the time start.
type fixedWindow struct {
	period, limit int64
	start, used   int64
}

func (w *fixedWindow) left(now int64) int64 {
	if start := now - now%w.period; start != w.start {
		w.start, w.used = start, 0
	}
	return w.limit - w.used
}

func (w *fixedWindow) take(int64)                    { w.used++ }
func (w *fixedWindow) moreAt(now int64) int64        { return now - now%w.period + w.period }
func (w *fixedWindow) setLimit(now int64, limit int) { w.limit = int64(limit) }
func (w *fixedWindow) unused(now int64) bool         { return w.left(now) == w.limit }

// slidingWindow remembers when the calls of the last period were granted.
type slidingWindow struct {
	period int64
	limit  int
	// granted holds times in ascending order. Those before first are older than
	// a period.
	granted []int64
	first   int
}

// recent returns the calls that still count.
func (w *slidingWindow) recent(now int64) []int64 {
	for w.first < len(w.granted) && w.granted[w.first] <= now-w.period {
		w.first++
	}
	// Half of the list goes at a time, so that few calls pay for the move.
	if w.first > 64 && w.first > len(w.granted)/2 {
		w.granted = slices.Delete(w.granted, 0, w.first)
		w.first = 0
	}
	return w.granted[w.first:]
}

func (w *slidingWindow) left(now int64) int64 { return int64(w.limit - len(w.recent(now))) }
func (w *slidingWindow) take(now int64)       { w.granted = append(w.granted, now) }

func (w *slidingWindow) moreAt(now int64) int64 {
	recent := w.recent(now)
	// If the limit has sunk below what was granted, more than one call must leave.
	leaves := max(0, len(recent)-w.limit)
	switch {
	case len(recent) == 0 && w.limit > 0:
		return now
	case leaves >= len(recent): // the limit is 0
		return now + w.period
	}
	return recent[leaves] + w.period
}

func (w *slidingWindow) setLimit(_ int64, limit int) { w.limit = limit }
func (w *slidingWindow) unused(now int64) bool       { return len(w.recent(now)) == 0 }

// counter is the use of a quota: of all of it, or of one kind of call or one user.
type counter struct {
	quota   *Quota
	count   *QuotaCount
	start   int64
	meter   meter // nil while there is no limit
	changes int   // how many of the quota's have come into force
	foreign uint64
}

func newCounter(q *Quota, count *QuotaCount, start int64) *counter {
	return &counter{quota: q, count: count, start: start, meter: newMeter(q, start, q.Limit)}
}

// advance brings changes into force, and makes the calls of strangers, up to now. Each
// of these calls costs about ten nanoseconds.
func (c *counter) advance(now int64) {
	for {
		change, hasChange := c.nextChange()
		call, hasCall := c.nextForeign()
		switch {
		case hasChange && change <= now && (!hasCall || change <= call):
			c.apply(change, c.quota.Changes[c.changes].Limit)
			c.changes++
		case hasCall && call <= now:
			c.foreign++
			if c.left(call) > 0 {
				c.take(call)
				c.count.ForeignGranted++
			} else {
				c.count.ForeignRefused++
			}
		default:
			return
		}
	}
}

func (c *counter) nextChange() (at int64, ok bool) {
	if c.changes == len(c.quota.Changes) {
		return 0, false
	}
	return c.start + int64(c.quota.Changes[c.changes].After), true
}

// nextForeign is when strangers make their next call.
func (c *counter) nextForeign() (at int64, ok bool) {
	if c.quota.Foreign == 0 {
		return 0, false
	}
	high, low := bits.Mul64(c.foreign+1, uint64(c.quota.Period)) //nolint:gosec // positive
	after, _ := bits.Div64(high, low, uint64(c.quota.Foreign))   //nolint:gosec // positive
	return c.start + int64(after), true                          //nolint:gosec // a time near now
}

func (c *counter) apply(now int64, limit int) {
	switch {
	case limit == NoLimit:
		c.meter = nil
	case c.meter == nil:
		c.meter = newMeter(c.quota, now, limit)
	default:
		c.meter.setLimit(now, limit)
	}
}

// left is how many calls are granted if they come at once.
func (c *counter) left(now int64) int64 {
	if c.meter == nil {
		return 1
	}
	return c.meter.left(now)
}

func (c *counter) take(now int64) {
	if c.meter != nil {
		c.meter.take(now)
	}
}

// limit is the limit that is in force, or NoLimit.
func (c *counter) limit() int {
	if c.changes == 0 {
		return c.quota.Limit
	}
	return c.quota.Changes[c.changes-1].Limit
}
