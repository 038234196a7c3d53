package source

import "time"

// wallClock returns the time at which a clock in location shows wall, which is
// given as if it were UTC. If there are two such times, it returns the later one.
// If the clock skips wall, it uses the offset from before the clock was put forward.
// Both choices keep a lock longer.
func wallClock(wall time.Time, location *time.Location) time.Time {
	const maxOffset = 24 * time.Hour // no zone is that far from UTC
	const none = int(maxOffset / time.Second)
	at := func(offset int) time.Time { return wall.Add(-time.Duration(offset) * time.Second) }
	// The smallest offset, in seconds east of UTC, gives the latest time.
	shown, around := none, none
	for t := wall.Add(-maxOffset).In(location); ; {
		_, offset := t.Zone()
		around = min(around, offset)
		if _, then := at(offset).In(location).Zone(); then == offset {
			shown = min(shown, offset)
		}
		_, until := t.ZoneBounds()
		if until.IsZero() || until.After(wall.Add(maxOffset)) {
			break
		}
		t = until
	}
	if shown == none {
		return at(around)
	}
	return at(shown)
}
