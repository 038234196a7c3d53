package locks

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/kooworker/kooworker/worker/locks/source"
)

// Schedule says when to sweep: one of Every and Cron.
type Schedule struct {
	// Every is the time from one sweep to the next, at least a second.
	Every time.Duration
	// Cron is a specification of five fields, such as "0 3 * * *", or @daily and
	// its like.
	//
	// In the night in which clocks are put forward, a sweep that falls into the
	// skipped hour comes later by as much as the clocks were put forward. In the night
	// in which they are put back, a sweep that falls into the repeated hour comes in
	// the first of the two. A schedule that ticks in every hour of the day follows
	// the time that passes.
	Cron string
	// Location is the time zone of Cron. Default UTC.
	Location *time.Location
}

// parsedSchedule is a schedule that was checked.
type parsedSchedule struct {
	spec  string // as asynq reads it
	name  string // tells it from other schedules
	every time.Duration
	cron  *cron.SpecSchedule // nil if every is set
	loc   *time.Location
}

func (s Schedule) parse() (parsedSchedule, error) {
	p := parsedSchedule{loc: cmp.Or(s.Location, time.UTC), every: s.Every}
	switch {
	case (s.Every != 0) == (s.Cron != ""):
		return p, errors.New("want a time between sweeps, or a cron specification")
	case s.Every != 0 && (s.Every < time.Second || s.Every%time.Second != 0):
		return p, fmt.Errorf("a sweep every %s; want whole seconds, at least one", s.Every)
	case s.Every != 0:
		p.spec = "@every " + s.Every.String()
		p.name = p.spec
		return p, nil
	}
	p.spec = strings.Join(strings.Fields(s.Cron), " ")
	p.name = p.spec + " " + p.loc.String()
	const want = `want five fields, such as "0 3 * * *"`
	if strings.Contains(p.spec, "TZ=") { // the parser panics on some of these
		return p, fmt.Errorf("cron specification %q: %s; the time zone is given separately", s.Cron, want)
	}
	parsed, err := cron.ParseStandard(p.spec)
	if err != nil {
		return p, fmt.Errorf("cron specification %q: %w; %s", s.Cron, err, want)
	}
	// @every is refused: package cron counts its ticks from the moment of the call.
	fields, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return p, fmt.Errorf("cron specification %q: %s; a time between sweeps is not part of it", s.Cron, want)
	}
	if p.cron = fields; p.next(time.Now()).IsZero() {
		return p, fmt.Errorf("cron specification %q: there is no such day; %s", s.Cron, want)
	}
	return p, nil
}

// next returns the first tick after a time, or zero if there is none for years.
func (p parsedSchedule) next(after time.Time) time.Time {
	if p.every > 0 {
		return after.Truncate(p.every).Add(p.every)
	}
	const allHours = 1<<24 - 1
	if p.cron.Hour&allHours == allHours {
		return p.cron.Next(after.In(p.loc))
	}
	// Package cron leaves out a tick in the hour that clocks skip, and ticks twice in
	// the hour that they repeat. So it is asked for the ticks of a clock in UTC, which
	// does neither, beginning before any change of clocks.
	const maxChange = 2 * time.Hour // clocks are never changed by more
	_, offset := after.In(p.loc).Zone()
	clock := after.UTC().Add(time.Duration(offset)*time.Second - maxChange)
	for clock = p.cron.Next(clock); !clock.IsZero(); clock = p.cron.Next(clock) {
		if tick, _ := source.LocalTimes(clock, p.loc); tick.After(after) {
			return tick
		}
	}
	return time.Time{}
}

// tickAt returns the latest tick that is due at a time, however late it is. Every
// replica gets the same tick. If the schedule is Every, asynq's ticks come at
// different moments on each replica, since each counts from its own start; but one
// comes between any two ticks of this function.
func (p parsedSchedule) tickAt(at time.Time) time.Time {
	if p.every > 0 {
		return at.Truncate(p.every)
	}
	for _, back := range []time.Duration{time.Minute, time.Hour, 24 * time.Hour, 32 * 24 * time.Hour, 5 * 366 * 24 * time.Hour} {
		last := time.Time{}
		for next := p.next(at.Add(-back)); !next.IsZero() && !next.After(at); next = p.next(next) {
			last = next
		}
		if !last.IsZero() {
			return last
		}
	}
	return time.Time{}
}

// missed reports whether a tick has passed since the last one that was enqueued,
// and no replica has enqueued it. Another replica may still be about to enqueue a
// tick until the next one is due (Every), or for a minute (Cron). If last is zero
// none was enqueued, and none is missed.
func (p parsedSchedule) missed(last, now time.Time) bool {
	const maxDelay = time.Minute
	if last.IsZero() {
		return false
	}
	first := p.next(last)
	return !first.IsZero() && now.Sub(first) >= cmp.Or(p.every, maxDelay)
}

// retention is how long the task ID of a tick is kept after its sweep: until the
// next tick is due by every replica's clock.
func (p parsedSchedule) retention(tick time.Time) time.Duration {
	return max(0, p.next(tick).Sub(tick)) + maxClockSkew
}
