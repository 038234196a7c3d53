package gate

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// Config is what a Gate needs. A zero in any field means its default.
type Config struct {
	// Rate is the maximum of calls a second that the whole fleet makes together.
	// Default 0: no limit.
	Rate float64
	// MaxInFlight is the maximum number of calls that this process has in flight.
	// Default 0: no limit.
	MaxInFlight int
	// MaxWait is how long a task may wait for a permit before it is refused.
	// Default 10 s.
	MaxWait time.Duration
	// Jitter is the random part of a refused task's delay, so that tasks that were
	// refused together do not run again together. At least 1 s, since the queue keeps
	// whole seconds. Default 30 s.
	Jitter time.Duration

	// ThrottleMin and ThrottleMax bound the random pause after a throttled
	// answer that names no time. At most throttleCap. Default 2 s to 5 s, the
	// vendor's advice.
	ThrottleMin, ThrottleMax time.Duration

	// Check asks KooDrive for the devices of a user, to find out whether KooDrive works
	// while calls for other users fail. The gate admits its calls. Default: no check,
	// and such a failure is charged to no task before another call shows that KooDrive
	// works.
	Check func(ctx context.Context, user string) Answer

	// Fleet knows the other workers. Default: there are none.
	Fleet Fleet
	// OnChange is called when the breaker of a kind of calls changes its state. The
	// reason says why the breaker is or was not closed. The calls come in order and under the gate's
	// lock: OnChange must neither block nor call the gate. Default: nothing is called.
	OnChange func(kind Kind, from, to State, reason tasks.Reason)
}

func (c Config) withDefaults() Config {
	c.MaxWait = cmp.Or(c.MaxWait, 10*time.Second)
	c.Jitter = cmp.Or(c.Jitter, 30*time.Second)
	c.ThrottleMin = cmp.Or(c.ThrottleMin, 2*time.Second)
	c.ThrottleMax = cmp.Or(c.ThrottleMax, 5*time.Second)
	if c.Fleet == nil {
		c.Fleet = solo{&Book{}}
	}
	if c.OnChange == nil {
		c.OnChange = func(Kind, State, State, tasks.Reason) {}
	}
	return c
}

// validate expects that defaults have been set.
func (c Config) validate() error {
	switch {
	case math.IsNaN(c.Rate) || math.IsInf(c.Rate, 0) || c.Rate < 0:
		return fmt.Errorf("gate: rate is %g; want calls per second, or 0 for no limit", c.Rate)
	case c.MaxInFlight < 0:
		return fmt.Errorf("gate: max in flight is %d; want 1 or more, or 0 for no limit", c.MaxInFlight)
	case c.MaxWait < 0:
		return fmt.Errorf("gate: max wait is %s; want more than 0", c.MaxWait)
	case c.Jitter < time.Second:
		return fmt.Errorf("gate: jitter is %s; want at least 1s, since the queue keeps whole seconds", c.Jitter)
	case c.ThrottleMin < 0 || c.ThrottleMax < c.ThrottleMin || throttleCap < c.ThrottleMax:
		return fmt.Errorf("gate: throttle pause is %s to %s, capped at %s; want them to rise", c.ThrottleMin, c.ThrottleMax, throttleCap)
	}
	return nil
}
