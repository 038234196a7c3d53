package source

import "time"

// wallClock is what a clock in location means that shows wall, which is given as
// if it were UTC. Of two times that it can mean it is the later one, and a time
// that the clock leaves out is counted from before it was put forward: that errs
// on the side of the lock.
func wallClock(wall time.Time, location *time.Location) time.Time {
	const farthest = 24 * time.Hour // from UTC: no zone is
	const none = int(farthest / time.Second)
	at := func(offset int) time.Time { return wall.Add(-time.Duration(offset) * time.Second) }
	// The smallest offsets, in seconds east of UTC, make the latest times.
	shown, around := none, none
	for t := wall.Add(-farthest).In(location); ; {
		_, offset := t.Zone()
		around = min(around, offset)
		if _, then := at(offset).In(location).Zone(); then == offset {
			shown = min(shown, offset)
		}
		_, until := t.ZoneBounds()
		if until.IsZero() || until.After(wall.Add(farthest)) {
			break
		}
		t = until
	}
	if shown == none {
		return at(around)
	}
	return at(shown)
}
