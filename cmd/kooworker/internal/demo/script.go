package demo

import (
	"context"
	"fmt"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// scenario is what happens to a task. The target's ID begins with the scenario's
// name, so that the simulator's faults match it.
type scenario string

const (
	smooth    scenario = "smooth"
	gone      scenario = "gone"      // was never bound or locked
	flaky     scenario = "flaky"     // fails twice, then succeeds
	forbidden scenario = "forbidden" // fails for good
)

// scenarioOf chooses the scenario of task i. Of twenty tasks two are gone, two
// flaky and one forbidden.
func scenarioOf(i int) scenario {
	switch i % 20 {
	case 3, 13:
		return gone
	case 5, 15:
		return flaky
	case 11:
		return forbidden
	default:
		return smooth
	}
}

// faults returns what the simulator does wrong, by scenario.
func faults() []simulator.Fault {
	match := func(s scenario) simulator.Match { return simulator.Match{Target: string(s) + "-*"} }
	return []simulator.Fault{
		{Kind: "upstream-500", Match: match(flaky), Times: 2, PerTarget: true},
		{Kind: "forbidden", Match: match(forbidden)},
	}
}

// allowed is how many calls a second the simulator allows of each kind. It does not say
// so, as KooDrive's gateway may not.
const allowed = 200

func quota() simulator.Quota {
	return simulator.Quota{Shape: simulator.ShapeBucket, Limit: allowed, Period: time.Second, Burst: allowed / 10, PerCall: true}
}

// enqueue enqueues the tasks. It puts the device or lock of each into the simulator
// first.
func (d *demo) enqueue(ctx context.Context, unbinds, releases int) error {
	for i := range unbinds {
		t := tasks.DeviceUnbind{UserID: fmt.Sprintf("user-%d", i/3), DeviceID: fmt.Sprintf("%s-%d", scenarioOf(i), i)}
		if scenarioOf(i) != gone {
			d.sim.Bind(t.UserID, simulator.Device{DeviceID: t.DeviceID})
		}
		if _, err := d.producer.Unbind(ctx, t); err != nil {
			return err
		}
	}
	expires := time.Now().Add(time.Hour)
	for i := range releases {
		t := tasks.LockRelease{UserID: fmt.Sprintf("user-%d", i), LockID: fmt.Sprintf("%s-%d@102", scenarioOf(i), i)}
		if scenarioOf(i) != gone {
			d.sim.AddLock(t.UserID, t.LockID, expires)
		}
		if _, err := d.producer.Release(ctx, t); err != nil {
			return err
		}
	}
	return nil
}
