package quota

import "math"

const (
	// settle is for how long the effect of a correction is awaited, in ms.
	settle = 400
	// searchFrom is the least rate to search from. It is soon corrected if it is too
	// high.
	searchFrom = 100
	// hold is how long a corrected rate stays as it is, in ms.
	hold = 2000
	// forgetAfter is after what time without a refusal a limit that is not needed is
	// forgotten, in ms.
	forgetAfter = 600_000
	// Of the calls, these shares are few, and many, to be refused.
	fewRefused, manyRefused = 0.1, 0.3
)

// growth is how the rate grows.
type growth struct {
	From float64 `json:"from"` // the corrected rate
	At   int64   `json:"at"`   // when it was corrected, and later by the time in which it was not needed
	// IsSure says that the correction before led to about the same rate.
	IsSure bool `json:"is_sure,omitempty"`
}

// search begins with what passed in the last second.
func (e *Estimate) search(now int64) {
	s := e.lately(now)
	e.Series = series{}
	e.Phase = Searching
	e.lower(now, max(float64(s.Calls-s.Refused), searchFrom))
}

// grow raises the rate, after elapsed ms without too many refusals.
func (e *Estimate) grow(now, elapsed int64) {
	isNeeded := e.isNeeded(now)
	switch {
	case !isNeeded && now-max(e.RefusedAt, e.ToldAt) > forgetAfter, !isNeeded && e.Phase == Searching && now-e.EpochAt > hold && e.Rate > 1000:
		e.Phase, e.Rate = Unlimited, 0
		if s := e.within(now - recently); s.Refused > 0 {
			e.Usual.trust(now, s)
		}
		return
	case !isNeeded:
		e.Growth.At += elapsed
		return
	case e.Phase == Searching:
		if e.age(now) >= settle {
			e.Rate *= math.Pow(2, float64(elapsed)/settle)
		}
	default:
		factor := e.Growth.factor(now, max(e.Window.Length, e.Window.Guess))
		e.Rate = e.Growth.From * factor
		if factor > 8 {
			e.Phase = Searching
		}
	}
	if told := e.toldRate(now); e.Rate >= told {
		e.Rate = told
		e.Growth = growth{From: told, At: now}
	}
}

// isNeeded reports whether the fleet uses most of the rate, or lacks calls.
func (e *Estimate) isNeeded(now int64) bool {
	const most = 0.7
	span := int64(recently)
	if e.Phase == Searching {
		span = settle
	}
	return now-e.LackedAt < span || float64(e.within(now-span).Calls)*1000 >= most*e.Rate*float64(span)
}

// factor returns by what factor the rate has grown. It grows more slowly if it takes long
// to see whether the rate is too high: at a rate of few calls, or if the window is long.
func (g growth) factor(now, windowLength int64) float64 {
	const calls, longest = 10, 2000
	unit := min(max(1000, calls*1000/g.From), longest)
	wait := 2 * unit
	if windowLength > 0 {
		unit = max(unit, float64(windowLength)/4)
		wait = max(wait, 1.5*float64(windowLength))
	}
	if !g.IsSure && windowLength == 0 {
		wait, unit = wait/2, unit/3
	}
	t := max((float64(now-g.At)-wait)/unit, 0)
	return 1 + 0.002*t + 0.0006*t*t*t
}
