package gate

import "time"

// An open breaker closes only after a probe, and a probe is a task. If no task comes, the
// breaker stays open for ever, though KooDrive may have recovered long ago: the other workers
// had the tasks, or all of them were cancelled. What such a breaker says is old, and nothing
// waits for it. The same holds for a quota that was used up.
//
// The gate makes no call to find out. It says that its knowledge is old: untested. Who reports
// what stands in the way leaves that out. The next task is a probe, and is reported again.
//
// As long as a task waits anywhere in the fleet, the worker that has put it back last knows
// when it comes again, and is not untested before. So in an outage at least one worker says so
// at any time.

// overdue is how long after its time a task may come: the queue looks for tasks that are due
// every few seconds, and a busy worker takes longer.
const overdue = time.Minute

// expect takes note of when a task that is put back comes again.
func (g *Gate) expect(kind Kind, at time.Time) {
	if at.After(g.expectedBy[kind]) {
		g.expectedBy[kind] = at
	}
}

// isUntested reports whether it is long overdue that a task tries a call of this kind.
func (g *Gate) isUntested(now time.Time, kind Kind) bool {
	b := g.breakers[kind]
	due := g.expectedBy[kind]
	if b.state != Closed && b.nextProbeAt.After(due) {
		due = b.nextProbeAt
	}
	return g.waiting[kind] == 0 && b.inFlight == 0 && now.Sub(due) > overdue
}
