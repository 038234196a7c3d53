package main

import (
	"fmt"
	"iter"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// demoPlan says what the demo enqueues: which tasks, and what stands in their
// way.
type demoPlan struct {
	unbinds, releases int
}

func newDemoPlan(n int) *demoPlan { return &demoPlan{unbinds: n - n/6, releases: n / 6} }

// fate is what is in store for a task; its name is the beginning of the
// target's id, by which the simulator knows it.
type fate string

const (
	fateFine      fate = "fine"
	fateGone      fate = "gone"      // was never bound or taken
	fateFlaky     fate = "flaky"     // fails twice, then succeeds
	fateBusy      fate = "busy"      // throttled once
	fateForbidden fate = "forbidden" // fails for good
)

// fateOf spreads the fates over the tasks: of twenty, two are gone, two flaky
// and one forbidden. KooDrive is busy now and then, for whoever calls just then.
func fateOf(i int) fate {
	if i%400 >= 30 && i%400 < 50 {
		return fateBusy
	}
	switch i % 20 {
	case 3, 13:
		return fateGone
	case 5, 15:
		return fateFlaky
	case 11:
		return fateForbidden
	default:
		return fateFine
	}
}

func demoFaults() []simulator.Fault {
	match := func(f fate) simulator.Match { return simulator.Match{Target: string(f) + "-*"} }
	return []simulator.Fault{
		{Kind: "upstream-500", Match: match(fateFlaky), Times: 2, PerTarget: true},
		{Kind: "throttled-retry-after", Match: match(fateBusy), Times: 1, PerTarget: true},
		{Kind: "forbidden", Match: match(fateForbidden)},
	}
}

// tasks yields the tasks, and puts the devices and locks into the simulator as
// it goes.
func (p *demoPlan) tasks(sim *simulator.Simulator) iter.Seq[tasks.Task] {
	expires := time.Now().Add(time.Hour)
	return func(yield func(tasks.Task) bool) {
		for i := range p.unbinds {
			f := fateOf(i)
			t := tasks.DeviceUnbind{UserID: fmt.Sprintf("user-%d", i/3), DeviceID: fmt.Sprintf("%s-%d", f, i)}
			if f != fateGone {
				sim.Bind(t.UserID, simulator.Device{DeviceID: t.DeviceID})
			}
			if !yield(t) {
				return
			}
		}
		for i := range p.releases {
			f := fateOf(i)
			t := tasks.LockRelease{UserID: fmt.Sprintf("user-%d", i), LockID: fmt.Sprintf("%s-%d@102", f, i)}
			if f != fateGone {
				sim.AddLock(t.UserID, t.LockID, expires)
			}
			if !yield(t) {
				return
			}
		}
	}
}
