package quota

import "math"

const (
	// longClosed is for how long nothing passes if a window of more than a second is
	// used up, in ms.
	longClosed = 1500
	// probeEvery is the time between two probes, in ms.
	probeEvery = 1000
	// longestProbe is the same while a long window is used up that the API has named.
	longestProbe = 60_000
)

// window is what is known of the window that a quota is for.
type window struct {
	PassedAt     int64   `json:"passed_at,omitempty"` // the latest step in which a call passed
	ClosedAt     int64   `json:"closed_at,omitempty"`
	RateBefore   float64 `json:"rate_before,omitempty"`   // before it closed
	OpenedAt     int64   `json:"opened_at,omitempty"`     // when it opened last
	Opened       int64   `json:"opened,omitempty"`        // Counts.Passed then
	Length       int64   `json:"length,omitempty"`        // in ms, if it is longer than a few seconds; else 0
	PassedBefore int64   `json:"passed_before,omitempty"` // from the opening before to the last one
	// Guess is how long it may be, by one opening alone. The next one shows whether it is.
	Guess int64 `json:"guess,omitempty"`
}

// isUsedUp reports whether so many calls in a row are refused that it is no chance.
func (e *Estimate) isUsedUp(now int64) bool {
	const (
		chance      = 1e-5
		least, most = 0.01, 0.5
	)
	run, since := e.refusedInRow()
	if run == 0 || now-since < stepEvery {
		return false
	}
	before := e.within(0)
	before.Calls, before.Refused = before.Calls-run, before.Refused-run
	usual := min(max(e.Usual.Share, before.of(), least), most)
	return float64(run) >= math.Log(chance)/math.Log(usual)
}

// refusedInRow returns how many calls of this epoch were refused since the last one
// passed, and since when that is.
func (e *Estimate) refusedInRow() (run, since int64) {
	since = max(e.EpochAt, e.Window.PassedAt)
	if s := e.within(since); s.Calls == s.Refused {
		run = s.Refused
	}
	return run, since
}

// shut lets no call pass but probes.
func (e *Estimate) shut(now int64) {
	e.Phase = Closed
	e.Window.ClosedAt, e.Window.RateBefore = now, e.Growth.From
	e.Rate = e.probeRate(now)
	e.beginEpoch(now)
}

// probeRate returns the probes a second while the phase is Closed. If the API has named a
// long window, one probe for each hundredth of it will do.
func (e *Estimate) probeRate(now int64) float64 {
	const atFirst = 10
	every := int64(probeEvery)
	switch {
	case now-e.Window.ClosedAt < recently:
		return atFirst
	case !math.IsInf(e.toldRate(now), 1):
		every = min(max(every, e.Told.Window.Milliseconds()/100), longestProbe)
	}
	return 1000 / float64(every)
}

// reopen goes on when probes have passed.
func (e *Estimate) reopen(now, probes int64) {
	const few = 3 // calls say nothing
	passed := e.Counts.Passed - probes - e.Window.Opened
	wasLong := now-e.Window.ClosedAt > longClosed
	const before = 5000 // ms
	recent := e.within(e.Window.ClosedAt - before)
	since := max(e.Window.ClosedAt-before, e.Window.OpenedAt)
	lately := float64(recent.Calls-recent.Refused) * 1000 / float64(max(now-since, 1))
	rate := e.Window.measure(now, float64(passed), lately)
	e.Phase = Following
	told := e.toldRate(now)
	switch {
	case !math.IsInf(told, 1):
		rate = told
	case passed < few && wasLong:
		e.Phase, rate = Searching, searchFrom
	case e.Window.Guess > 0:
		rate = e.Window.tryRate(rate)
	}
	e.Window.PassedBefore = passed
	e.Window.Opened, e.Window.OpenedAt = e.Counts.Passed-probes, now
	e.lower(now, rate*(1-below))
}

// measure returns the calls a second that passed since the window opened before, if that
// time is one window, or several of a known length. It learns the length when two
// windows in a row are alike: one alone may be a time in which everything was refused.
// Otherwise it returns what passed lately, and not more than the rate was.
func (w *window) measure(now int64, passed, lately float64) (rate float64) {
	const early = 10 // a used-up window is closed for this part of its time at least
	span, closedFor := now-w.OpenedAt, now-w.ClosedAt
	windows := int64(1)
	if w.Length > 0 {
		windows = max((span+w.Length/2)/w.Length, 1)
	}
	isLike := func(length, exact int64) bool { return length > 0 && abs(span-length) < exact }
	perSecond := func(calls float64, ms int64) float64 { return calls * 1000 / float64(max(ms, 1)) }
	isLong, guess := closedFor > longClosed && closedFor > span/early, w.Guess
	w.Guess = 0
	switch {
	case isLike(windows*w.Length, w.Length/early):
		return perSecond(passed, windows*w.Length)
	case isLike(guess, max(guess/early, min(guess/5, probeEvery))): // a probe shows an opening late
		w.Length = span
		return perSecond(passed, span)
	case isLong:
		w.Length, w.Guess = 0, span
		return perSecond(passed, span)
	case w.Length > 0 && span > w.Length/2:
		return w.RateBefore
	case span < recently*3/2: // a window of one second
		w.Length = 0
		return max(passed, 1)
	default: // a bucket that holds few calls
		w.Length = 0
		return min(w.RateBefore, lately)
	}
}

// tryRate returns a rate that shows whether the length of the window is guessed right: the
// quota is used up a little before the window ends. If the window is short, or only began
// to be seen at its end, that may be soon.
func (w *window) tryRate(rate float64) float64 {
	const more, long = 1.15, 30_000
	return max(rate*more, min(w.RateBefore, rate*long/float64(w.Guess)))
}

// checkGuess forgets the guessed length of the window when more has passed than in the
// one before. What was refused then was not refused because of a quota.
func (e *Estimate) checkGuess() {
	const more = 1.12
	if w := &e.Window; w.Guess > 0 && e.Phase != Closed && float64(e.Counts.Passed-w.Opened) > more*float64(w.PassedBefore) {
		w.Guess = 0
		e.Phase = Searching
	}
}

// windowRate returns the calls a second that have passed since the window opened, if that
// is a window of more than a few seconds, and a whole one. Over such a time they tell more
// than the calls of the last second. Otherwise it returns 0.
func (e *Estimate) windowRate(now int64) float64 {
	span := now - e.Window.OpenedAt
	if e.Window.Length == 0 || span < e.Window.Length {
		return 0
	}
	return float64(e.Counts.Passed-e.Window.Opened) * 1000 / float64(span)
}

func abs(x int64) int64 { return max(x, -x) }
