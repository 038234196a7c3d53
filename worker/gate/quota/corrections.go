package quota

import "math"

// series is a series of corrections, one soon after the other.
type series struct {
	Before float64 `json:"before"` // the rate before the first
	// WasOpen says that this was not a limit that had been found.
	WasOpen bool `json:"was_open,omitempty"`
	// Seen are the calls before each of the corrections.
	Seen share `json:"seen,omitzero"`
	// ByRate is what share should be refused after the latest, if the rate is the cause.
	ByRate float64 `json:"by_rate"`
	// IsTrial says that the latest went far below what got through.
	IsTrial bool `json:"is_trial,omitempty"`
	// Score is the logarithm of how much likelier it is that the rate is not the cause.
	Score float64 `json:"score"`
}

const (
	// below is how far below what got through a corrected rate is.
	below = 0.01
	// farBelow is the same for a trial. At that rate hardly any call is refused, if the
	// rate is the cause.
	farBelow = 0.2
	// goesOn is for how long after a correction the next one belongs to the same series,
	// and goesOnCalls is the same in calls, if these take longer.
	goesOn, goesOnCalls = 4000, 60
	// fewCalls is how many calls tell something soon.
	fewCalls = 30
	// likely and sure are scores. One epoch adds at most mostScore.
	likely, sure, mostScore = 5, 7, 2
)

// correct lowers the rate to what got through, if enough calls show what that is.
func (e *Estimate) correct(now int64) {
	recent, s, usual := e.lately(now), &e.Series, e.Usual.Share
	refused, isSudden, isClear := e.refusedNow(now, recent)
	switch {
	case !isClear:
		return
	case e.Phase == Searching && refused < fewRefused:
		e.grow(now, stepEvery)
		return
	case !s.goesOn(e.age(now), e.EpochCalls):
		*s = series{Before: e.Rate, WasOpen: e.Phase == Searching}
	case isSudden: // something else has changed
		s.Score, s.Seen, s.IsTrial = 0, share{}, false
	default:
		s.judge(recent)
	}
	s.Seen = s.Seen.plus(recent)
	if s.Score >= sure {
		seen := s.Seen
		e.setBack(now)
		e.Usual.trust(now, seen)
		return
	}
	e.Phase = Following
	if s.IsTrial = s.IsTrial && s.Score >= likely; s.IsTrial {
		e.beginEpoch(now) // the trial goes on
		return
	}
	margin := below
	if s.Score >= likely {
		s.IsTrial = true
		margin = farBelow
	}
	excess := max(refused-usual, 0) / (1 - usual)
	factor := (1 - excess) * (1 - margin)
	s.ByRate = max(1-(1-recent.of())/factor, usual)
	e.lower(now, max(e.Rate*factor, min(e.windowRate(now)*(1-below), e.Rate)))
}

// refusedNow returns what share of the calls is refused at the present rate, whether that
// is suddenly a large one, and whether it is clear.
func (e *Estimate) refusedNow(now int64, recent share) (refused float64, isSudden, isClear bool) {
	const (
		doubt     = 10 // few calls say little
		far       = 1.5
		veryFew   = 5 // calls
		patience  = 3 * recently
		notByOdds = 1 // calls refused in a row
	)
	of := func(refused, calls int64) float64 { return float64(refused) / float64(calls+doubt) }
	refused, age := of(recent.Refused, recent.Calls), e.age(now)
	if run, _ := e.refusedInRow(); e.Phase == Following && run > notByOdds {
		return refused, false, false // perhaps the quota of a window is used up
	}
	isSudden = refused >= manyRefused
	if e.Series.goesOn(age, e.EpochCalls) {
		isSudden = isSudden && recent.Calls >= fewCalls && recent.of() > far*e.Series.Seen.of()
	}
	switch {
	case isSudden:
		isClear = true
	case age < settle, refused < fewRefused && age < recently:
	default:
		isClear = recent.Calls >= fewCalls || recent.Calls >= veryFew && age >= patience
	}
	if e.Phase == Searching && refused >= fewRefused { // most calls of the last second were before the quota was used up
		last := e.Steps[len(e.Steps)-1]
		refused = of(last.Refused, last.Fresh+last.Refused)
	}
	return refused, isSudden, isClear
}

// goesOn reports whether a correction belongs to the series, if the epoch is so old, in
// ms and in calls.
func (s *series) goesOn(age, calls int64) bool {
	return s.Seen.Calls > 0 && (age <= goesOn || calls <= goesOnCalls)
}

// judge compares the calls after a correction with what is to be expected if the rate is
// the cause, and if it is not: a sequential probability ratio test.
func (s *series) judge(after share) {
	const least, most, residue = 0.002, 0.98, 0.01
	ifAlike := min(max(s.Seen.of(), least), most)
	ifByRate := min(max(s.ByRate, ifAlike/4, min(ifAlike/2, residue)), ifAlike)
	passed, refused := float64(after.Calls-after.Refused), float64(after.Refused)
	likelier := refused*math.Log(ifAlike/ifByRate) + passed*math.Log((1-ifAlike)/(1-ifByRate))
	s.Score += min(max(likelier, -mostScore), mostScore)
}

// plus returns the sum. Old calls lose their weight.
func (s share) plus(other share) share {
	const many = 1000
	for s.Calls > many {
		s.Calls, s.Refused = s.Calls/2, s.Refused/2
	}
	return share{s.Calls + other.Calls, s.Refused + other.Refused}
}

// setBack sets the rate to what it was before the corrections.
func (e *Estimate) setBack(now int64) {
	e.Phase, e.Rate = Following, e.Series.Before
	if e.Series.WasOpen {
		e.Phase = Searching
	}
	e.Growth = growth{From: e.Rate, At: now}
	e.Series = series{}
	e.beginEpoch(now)
}

// usual is the share of the calls that is refused at any rate.
type usual struct {
	Share float64 `json:"share"`
	// Until is when that is tried again, and Trust for how long it is believed, in ms.
	Until int64 `json:"until"`
	Trust int64 `json:"trust"`
}

// The time between two trials doubles from the first of these to the second, in ms.
const minTrust, maxTrust = 10_000, 600_000

// trust begins to believe in a share. Chance may deceive a trial, so the next one comes
// soon, and later ones after longer.
func (u *usual) trust(now int64, s share) {
	u.Trust = min(max(2*u.Trust, minTrust), maxTrust)
	u.Share, u.Until = s.of(), now+u.Trust
}

// checkUsual forgets the usual share when fewer calls are refused, and begins a trial
// when it is time for one. A small share costs less than a trial.
func (e *Estimate) checkUsual(now int64) {
	u := &e.Usual
	if u.Share == 0 {
		return
	}
	const (
		many        = 50 // calls
		fade        = 0.95
		least       = 0.001
		worthATrial = 0.05
	)
	s := e.within(now - 3*recently)
	if s.Calls >= many && s.of() < u.Share {
		u.Share = max(s.of(), u.Share*fade)
	}
	switch {
	case u.Share < least:
		*u = usual{}
	case now >= u.Until && s.of() >= worthATrial && (e.Phase == Unlimited || e.Phase == Following):
		rate := e.Rate
		if e.Phase == Unlimited {
			rate = float64(s.Calls) / 3
		}
		e.Series = series{Before: rate, WasOpen: e.Phase == Unlimited, Seen: s, Score: likely, IsTrial: true}
		e.Phase = Following
		e.lower(now, rate*(1-u.Share)*(1-farBelow))
		u.Share = 0
	}
}

// exceeds reports whether clearly more calls were refused than a usual share.
func (s share) exceeds(usual float64) bool {
	if usual == 0 {
		return s.Refused > 0
	}
	const more, deviations = 1.3, 4
	n := usual * float64(s.Calls)
	return float64(s.Refused) > more*n+deviations*math.Sqrt(n)+1
}
