package source

import "time"

// LocalTimes returns when a clock in a zone shows a time, which is given as if it
// were UTC. first and last differ if the clock shows it twice, because it is put
// back. If the clock is put forward past it, it is counted from before the change:
// both are as much later than it as the clock is put forward.
func LocalTimes(clock time.Time, zone *time.Location) (first, last time.Time) {
	const day = 24 * time.Hour // no zone is further from UTC, and none changes its clocks twice within two days
	offset := func(at time.Time) time.Duration {
		_, seconds := at.In(zone).Zone()
		return time.Duration(seconds) * time.Second
	}
	isShownAt := func(at time.Time) bool { return at.Add(offset(at)).Equal(clock) }
	before, after := clock.Add(-offset(clock.Add(-day))), clock.Add(-offset(clock.Add(day)))
	switch {
	case !isShownAt(after):
		return before, before
	case !isShownAt(before):
		return after, after
	default:
		return before, after
	}
}
