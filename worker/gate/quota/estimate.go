package quota

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Phase says what an Estimate is about to do. The package comment describes the phases.
type Phase string

// The phases.
const (
	Unlimited Phase = ""
	Searching Phase = "searching"
	Following Phase = "following"
	Closed    Phase = "closed"
)

// Estimate is what a fleet knows of a quota. It is kept as JSON. Times are in ms, by one
// clock for the whole fleet.
type Estimate struct {
	Phase Phase `json:"phase,omitempty"`
	// Rate is how many calls a second the fleet may make; 0 for any number.
	Rate float64 `json:"rate"`
	// Epoch counts how often Rate was lowered or set back.
	Epoch uint64 `json:"epoch,omitempty"`
	// Told is the limit that the API has named last, and ToldAt when.
	Told   Limit `json:"told,omitzero"`
	ToldAt int64 `json:"told_at,omitempty"`
	// ToldFrom is when it was named first, and ToldPassed Counts.Passed then.
	ToldFrom   int64 `json:"told_from,omitempty"`
	ToldPassed int64 `json:"told_passed,omitempty"`

	At         int64  `json:"at"`              // the latest step
	Counts     Counts `json:"counts"`          // then
	Steps      []step `json:"steps,omitempty"` // the latest ones with calls
	RefusedAt  int64  `json:"refused_at,omitempty"`
	LackedAt   int64  `json:"lacked_at,omitempty"`
	EpochAt    int64  `json:"epoch_at,omitempty"`    // when the epoch began
	HeardAt    int64  `json:"heard_at,omitempty"`    // when its first calls were counted
	EpochCalls int64  `json:"epoch_calls,omitempty"` // how many were

	Growth growth `json:"growth,omitzero"`
	Series series `json:"series,omitzero"`
	Usual  usual  `json:"usual,omitzero"`
	Window window `json:"window,omitzero"`
}

// Limit is a quota as an API names it: so many calls in a window.
type Limit struct {
	Calls     int           `json:"calls"`
	Window    time.Duration `json:"window"`
	Dimension string        `json:"dimension,omitempty"` // what is counted: by the API, its caller's account, address, …
}

// IsShared reports whether the limit is for calls of all kinds together. One that counts
// by the API, or does not say how, is not.
func (l Limit) IsShared() bool {
	return l.Dimension == "user" || l.Dimension == "app" || l.Dimension == "ip"
}

// Rate returns the calls a second, 0 if there is no limit.
func (l Limit) Rate() float64 {
	if l.Calls <= 0 || l.Window <= 0 {
		return 0
	}
	return float64(l.Calls) / l.Window.Seconds()
}

// Counts are the calls of the fleet so far.
type Counts struct {
	Passed  int64 `json:"passed"`  // calls that no quota held back
	Fresh   int64 `json:"fresh"`   // of these, calls of what was the present epoch when they were counted
	Refused int64 `json:"refused"` // calls of such an epoch that were refused
	Lacked  int64 `json:"lacked"`  // calls that could have been made if Rate were higher
}

// step is what happened until At since the step before.
type step struct {
	At      int64 `json:"at"`
	Passed  int64 `json:"p"`
	Fresh   int64 `json:"f"` // of Passed
	Refused int64 `json:"r"`
}

// share is a number of calls, and how many of them were refused.
type share struct {
	Calls   int64 `json:"calls"`
	Refused int64 `json:"refused"`
}

func (s share) of() float64 {
	if s.Calls == 0 {
		return 0
	}
	return float64(s.Refused) / float64(s.Calls)
}

const (
	// StepEvery is the time between two steps.
	StepEvery = stepEvery * time.Millisecond
	// FirstStepAfter is the least time between two steps while there is no limit, and
	// calls are refused.
	FirstStepAfter = 50 * time.Millisecond
)

const (
	// stepEvery is StepEvery in ms.
	stepEvery = 200
	// keepSteps is how many steps are remembered.
	keepSteps = 32
	// recently is the time over which refusals are counted, in ms.
	recently = 1000
	// toldFor is for how long the rate does not exceed a limit that was told, in ms.
	toldFor = 180_000
	// toldShare is the share of such a limit that is used.
	toldShare = 0.992
)

// Report is what an Estimate is brought up to date with.
type Report struct {
	Counts Counts
	// Told is the limit that the API has named last, and ToldAt when; 0 for never.
	Told   Limit
	ToldAt int64
}

// Update brings an Estimate up to date. It should be called every StepEvery, and at once
// after the first refusal. It reports whether the rate has fallen so far that calls which
// were allowed at the old rate, and are not made yet, should not be made.
func (e *Estimate) Update(now int64, r Report) (isVoid bool) {
	const far = 0.6
	before := e.Rate
	e.learn(now, r.Counts)
	if r.ToldAt > e.ToldAt {
		e.tell(now, r.ToldAt, r.Told)
	}
	return e.Rate > 0 && (before == 0 || e.Rate < before*far)
}

// learn takes note of the calls so far, and sets the rate.
func (e *Estimate) learn(now int64, c Counts) {
	last, elapsed := e.record(now, c)
	switch {
	case e.Phase == Closed && last.Passed > 0:
		e.reopen(now, last.Passed)
	case e.Phase == Closed:
		e.Rate = e.probeRate(now)
	case e.Phase == Unlimited:
		if last.Refused > 0 && e.lately(now).exceeds(e.Usual.Share) {
			e.search(now)
		}
	case e.isUsedUp(now):
		e.shut(now)
	case last.Refused > 0 && e.lately(now).exceeds(e.Usual.Share):
		e.correct(now)
	default:
		e.grow(now, elapsed)
	}
	if last.Passed > 0 {
		e.Window.PassedAt = now
	}
	e.checkGuess()
	e.checkUsual(now)
	e.checkTold(now)
}

// record adds a step, and returns it with the ms since the one before.
func (e *Estimate) record(now int64, c Counts) (last step, elapsed int64) {
	if e.At == 0 {
		e.At, e.Window.OpenedAt = now, now
	}
	last = step{now, c.Passed - e.Counts.Passed, c.Fresh - e.Counts.Fresh, c.Refused - e.Counts.Refused}
	if c.Lacked > e.Counts.Lacked {
		e.LackedAt = now
	}
	elapsed = now - e.At
	e.At, e.Counts = now, c
	if last.Passed > 0 || last.Refused > 0 {
		e.Steps = append(e.Steps, last)
		e.Steps = e.Steps[max(0, len(e.Steps)-keepSteps):]
	}
	if e.HeardAt == 0 && last.Fresh+last.Refused > 0 {
		e.HeardAt = now
	}
	e.EpochCalls += last.Fresh + last.Refused
	if last.Refused > 0 {
		e.RefusedAt = now
	}
	return last, elapsed
}

// tell takes note of a limit that the API has named. One of which much more passes in a
// second than it allows is not the fleet's, but perhaps a single user's. At first a quota of
// minutes lets as much pass; it is believed when that is over.
func (e *Estimate) tell(now, at int64, l Limit) {
	const few = 5
	if l.Rate() == 0 || float64(e.passedSince(now-recently)) > 2*l.Rate()+few {
		return
	}
	isNew := l != e.Told || at-e.ToldAt > toldFor
	e.Told, e.ToldAt = l, at
	if isNew {
		e.ToldFrom, e.ToldPassed = now, e.Counts.Passed
	}
	switch {
	case e.Phase == Closed:
		e.Rate = e.probeRate(now)
	case isNew:
		e.Phase = Following
		e.lower(now, e.toldRate(now))
	}
}

// checkTold forgets a limit of which more has passed than it allows.
func (e *Estimate) checkTold(now int64) {
	const few = 5
	if e.Told.Calls == 0 {
		return
	}
	windows := 1 + float64(now-e.ToldFrom)/float64(max(e.Told.Window.Milliseconds(), 1))
	if float64(e.Counts.Passed-e.ToldPassed) > 2*windows*float64(e.Told.Calls)+few {
		e.Told = Limit{}
		e.Phase = Searching
		e.lower(now, max(e.Rate, searchFrom))
	}
}

// toldRate returns the rate that the API has named, or Inf. It is not so low that nobody
// would see that the limit is gone.
func (e *Estimate) toldRate(now int64) float64 {
	const longest = 3_600_000
	if e.Told.Calls == 0 || now-e.ToldAt > min(max(toldFor, 10*e.Told.Window.Milliseconds()), longest) {
		return math.Inf(1)
	}
	return max(toldShare*e.Told.Rate(), 1000.0/longestProbe)
}

// IsTold reports whether the API has named the limit, and the rate does not exceed it.
func (e *Estimate) IsTold() bool { return e.Rate > 0 && !math.IsInf(e.toldRate(e.At), 1) }

// lower begins an epoch with a rate. It is not above what the API has named.
func (e *Estimate) lower(now int64, rate float64) {
	const least, alike = 0.01, 1.5
	e.Rate = max(min(rate, e.toldRate(now)), least)
	e.Growth = growth{From: e.Rate, At: now, IsSure: max(e.Rate, e.Growth.From) < alike*min(e.Rate, e.Growth.From)}
	e.beginEpoch(now)
}

func (e *Estimate) beginEpoch(now int64) {
	e.Epoch++
	e.EpochAt, e.HeardAt, e.EpochCalls = now, 0, 0
}

// age returns how old the epoch is, in ms. If calls take long, its time begins later:
// at first calls of the old epoch are still under way, and use up the quota.
func (e *Estimate) age(now int64) int64 {
	const usual = 2 * stepEvery
	late := max(cmp.Or(e.HeardAt, now)-e.EpochAt-usual, 0)
	return now - e.EpochAt - 2*late
}

// within returns the calls since a time.
func (e *Estimate) within(from int64) (s share) {
	for _, x := range e.Steps {
		if x.At > from {
			s.Calls += x.Passed + x.Refused
			s.Refused += x.Refused
		}
	}
	return s
}

// passedSince returns how many of the calls since a time have passed, as far as is
// remembered.
func (e *Estimate) passedSince(from int64) int64 {
	s := e.within(from)
	return s.Calls - s.Refused
}

// lately returns the calls of the last second, or of more time if these were few, but
// of the present epoch only.
func (e *Estimate) lately(now int64) (s share) {
	const enough = 30
	for _, x := range slices.Backward(e.Steps) {
		if x.At <= e.EpochAt || x.At <= now-recently && s.Calls >= enough {
			break
		}
		s.Calls += x.Fresh + x.Refused
		s.Refused += x.Refused
	}
	return s
}
