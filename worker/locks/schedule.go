package locks

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Schedule says when to sweep: one of Every and Cron.
type Schedule struct {
	// Every is the time from one sweep to the next, at least a second.
	Every time.Duration
	// Cron is a specification of five fields, such as "0 3 * * *", or @daily and
	// its like.
	//
	// In the night in which clocks are put forward a sweep in the hour that is left
	// out comes as much later; in the night in which they are put back a sweep in
	// the hour that comes twice is for the first of them. What ticks in every hour
	// of the day goes by the time that passes.
	Cron string
	// Location is the time zone of Cron. Default UTC.
	Location *time.Location
}

// ticker is a schedule in use.
type ticker struct {
	spec  string // as asynq reads it
	name  string // what tells it from other schedules
	every time.Duration
	cron  *cron.SpecSchedule // nil for every
	loc   *time.Location
}

func (s Schedule) ticker() (ticker, error) {
	t := ticker{loc: s.Location, every: s.Every}
	if t.loc == nil {
		t.loc = time.UTC
	}
	switch {
	case (s.Every != 0) == (s.Cron != ""):
		return t, errors.New("want a time between sweeps, or a cron specification")
	case s.Every != 0 && (s.Every < time.Second || s.Every%time.Second != 0):
		return t, fmt.Errorf("a sweep every %s; want whole seconds, at least one", s.Every)
	case s.Every != 0:
		t.spec = "@every " + s.Every.String()
		t.name = t.spec
		return t, nil
	}
	t.spec = strings.Join(strings.Fields(s.Cron), " ")
	t.name = t.spec + " " + t.loc.String()
	const want = `want five fields, such as "0 3 * * *"`
	if strings.Contains(t.spec, "TZ=") { // the parser panics at some of these
		return t, fmt.Errorf("cron specification %q: %s, and the time zone by itself", s.Cron, want)
	}
	parsed, err := cron.ParseStandard(t.spec)
	if err != nil {
		return t, fmt.Errorf("cron specification %q: %w; %s", s.Cron, err, want)
	}
	// Of @every the ticks depend on when one asks.
	fields, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return t, fmt.Errorf("cron specification %q: %s; a time between sweeps is not cron's", s.Cron, want)
	}
	if t.cron = fields; t.next(time.Now()).IsZero() {
		return t, fmt.Errorf("cron specification %q: there is no such day; %s", s.Cron, want)
	}
	return t, nil
}

// next returns the first tick after a time, or zero if there is none for years.
func (t ticker) next(at time.Time) time.Time {
	if t.every > 0 {
		return at.Truncate(t.every).Add(t.every)
	}
	const allHours = 1<<24 - 1
	if t.cron.Hour&allHours == allHours {
		return t.cron.Next(at.In(t.loc))
	}
	// package cron leaves a tick out that falls into the hour that clocks skip, and
	// ticks twice in the hour that they repeat. So it is asked about a clock that
	// does neither, from before the change on.
	const change = 2 * time.Hour // more than clocks are changed by
	for clock := t.cron.Next(t.clock(at).Add(-change)); !clock.IsZero(); clock = t.cron.Next(clock) {
		if tick := t.instant(clock); tick.After(at) {
			return tick
		}
	}
	return time.Time{}
}

// clock is what a clock in the schedule's zone shows, as if that were UTC.
func (t ticker) clock(at time.Time) time.Time {
	_, offset := at.In(t.loc).Zone()
	return at.UTC().Add(time.Duration(offset) * time.Second)
}

// instant is when the clock shows this: for the first time if it does so twice,
// and as much later as it was put forward if it never does.
func (t ticker) instant(clock time.Time) time.Time {
	by := func(near time.Duration) time.Time { // by the offset that holds this far away
		_, offset := clock.Add(near).In(t.loc).Zone()
		return clock.Add(-time.Duration(offset) * time.Second)
	}
	const day = 24 * time.Hour
	before, after := by(-day), by(day)
	if t.clock(after).Equal(clock) && !t.clock(before).Equal(clock) {
		return after
	}
	return before
}

// slot names the tick that is due at a time, so that it has one name on every
// replica. Replicas that sweep every so often tick at different moments, since
// each began at its own; but each in every slot.
func (t ticker) slot(at time.Time) time.Time {
	if t.every > 0 {
		return at.Truncate(t.every)
	}
	// The last one that was due, however late this is.
	for _, back := range []time.Duration{time.Minute, time.Hour, 24 * time.Hour, 32 * 24 * time.Hour, 5 * 366 * 24 * time.Hour} {
		last := time.Time{}
		for next := t.next(at.Add(-back)); !next.IsZero() && !next.After(at); next = t.next(next) {
			last = next
		}
		if !last.IsZero() {
			return last
		}
	}
	return time.Time{}
}

// missed says whether a tick has passed since last with nobody there: another
// replica may still be about to enqueue one until its slot is over, or, of cron,
// for as long as it may be late.
func (t ticker) missed(last, now time.Time) bool {
	const late = time.Minute
	first := t.next(last)
	return !first.IsZero() && now.Sub(first) >= cmp.Or(t.every, late)
}

// kept is for how long the task ID of a tick is kept after its sweep.
func (t ticker) kept(slot time.Time) time.Duration {
	return max(0, t.next(slot).Sub(slot)) + leeway
}
