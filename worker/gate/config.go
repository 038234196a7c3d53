package gate

import (
	"cmp"
	"fmt"
	"math"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// Config is what a Gate needs. A zero in any field means its default.
type Config struct {
	// Rate is the most calls a second that the whole fleet makes together.
	// Default 0: no limit.
	Rate float64
	// MaxInFlight is the most calls that this process has under way at a time.
	// Default 0: no limit.
	MaxInFlight int
	// MaxWait is how long a task may wait in line before it is refused.
	// Default 10 s.
	MaxWait time.Duration
	// Spread is the random part of a refused task's delay, so that those who
	// were refused together do not come back together. At least 1 s, since the
	// queue keeps whole seconds. Default 30 s.
	Spread time.Duration

	// Window is how far back the breaker counts. Default 10 s.
	Window time.Duration
	// InARow is the number of failures in a row that opens the breaker, once
	// the row has lasted for Persist. Default 10, and 5 s.
	InARow  int
	Persist time.Duration
	// Ratio is the share of failures among at least MinCalls that opens it.
	// More than 0, at most 1. Default 0.5 of 20.
	Ratio    float64
	MinCalls int
	// Alarms is the number of answers unauthorized, or misrouted, in a row
	// that opens it. Default 3.
	Alarms int
	// Probes is the number of good probes in a row that closes it. Default 3.
	Probes int
	// ProbeMin and ProbeMax bound the pause before a probe; pauses double from
	// the one to the other, give or take a half. No pause is shorter than
	// ProbeMin for each live worker. Default 1 s to 1 min.
	ProbeMin, ProbeMax time.Duration
	// RampFrom is the number of calls a second with which the fleet starts
	// again. It doubles every second. Default 10.
	RampFrom float64

	// ThrottleMin and ThrottleMax bound the random closure after a throttled
	// answer that names no time. Default 2 s to 5 s, the vendor's advice.
	ThrottleMin, ThrottleMax time.Duration
	// ThrottleCap bounds what an answer may ask for: after it the API is asked
	// again. Default 15 min.
	ThrottleCap time.Duration

	// Fleet is the other workers. Default: none.
	Fleet Fleet
	// OnChange is told when the breaker changes, and why it left closed. It is
	// called in order and under the gate's lock: it must neither block nor
	// call the gate. Default: nobody.
	OnChange func(from, to State, reason tasks.Reason)
}

func (c Config) withDefaults() Config {
	c.MaxWait = cmp.Or(c.MaxWait, 10*time.Second)
	c.Spread = cmp.Or(c.Spread, 30*time.Second)
	c.Window = cmp.Or(c.Window, 10*time.Second)
	c.InARow = cmp.Or(c.InARow, 10)
	c.Persist = cmp.Or(c.Persist, 5*time.Second)
	c.Ratio = cmp.Or(c.Ratio, 0.5)
	c.MinCalls = cmp.Or(c.MinCalls, 20)
	c.Alarms = cmp.Or(c.Alarms, 3)
	c.Probes = cmp.Or(c.Probes, 3)
	c.ProbeMin = cmp.Or(c.ProbeMin, time.Second)
	c.ProbeMax = cmp.Or(c.ProbeMax, time.Minute)
	c.RampFrom = cmp.Or(c.RampFrom, 10)
	c.ThrottleMin = cmp.Or(c.ThrottleMin, 2*time.Second)
	c.ThrottleMax = cmp.Or(c.ThrottleMax, 5*time.Second)
	c.ThrottleCap = cmp.Or(c.ThrottleCap, 15*time.Minute)
	if c.Fleet == nil {
		c.Fleet = alone{}
	}
	if c.OnChange == nil {
		c.OnChange = func(State, State, tasks.Reason) {}
	}
	return c
}

// validate wants defaults set.
func (c Config) validate() error {
	switch {
	case math.IsNaN(c.Rate) || math.IsInf(c.Rate, 0) || c.Rate < 0:
		return fmt.Errorf("gate: rate is %g; want calls per second, or 0 for no limit", c.Rate)
	case c.MaxInFlight < 0:
		return fmt.Errorf("gate: max in flight is %d; want 1 or more, or 0 for no limit", c.MaxInFlight)
	case c.MaxWait < 0:
		return fmt.Errorf("gate: max wait is %s; want more than 0", c.MaxWait)
	case c.Spread < time.Second:
		return fmt.Errorf("gate: spread is %s; want at least 1s, since the queue keeps whole seconds", c.Spread)
	case c.Window < windowBuckets*time.Millisecond:
		return fmt.Errorf("gate: window is %s; want at least %s", c.Window, windowBuckets*time.Millisecond)
	case c.Persist < 0:
		return fmt.Errorf("gate: persist is %s; want more than 0", c.Persist)
	case math.IsNaN(c.Ratio) || c.Ratio <= 0 || c.Ratio > 1:
		return fmt.Errorf("gate: ratio is %g; want more than 0, at most 1", c.Ratio)
	case math.IsNaN(c.RampFrom) || math.IsInf(c.RampFrom, 0) || c.RampFrom <= 0:
		return fmt.Errorf("gate: ramp from is %g; want calls per second", c.RampFrom)
	case c.ProbeMin < time.Millisecond || c.ProbeMax < c.ProbeMin:
		return fmt.Errorf("gate: probe pause is %s to %s; want at least 1ms, and the second not below the first", c.ProbeMin, c.ProbeMax)
	case c.ThrottleMin < 0 || c.ThrottleMax < c.ThrottleMin || c.ThrottleCap < c.ThrottleMax:
		return fmt.Errorf("gate: throttle wait is %s to %s, capped at %s; want them to rise", c.ThrottleMin, c.ThrottleMax, c.ThrottleCap)
	}
	for _, count := range []struct {
		name  string
		value int
	}{{"in a row", c.InARow}, {"min calls", c.MinCalls}, {"alarms", c.Alarms}, {"probes", c.Probes}} {
		if count.value < 1 || count.value > maxCount {
			return fmt.Errorf("gate: %s is %d; want 1 to %d", count.name, count.value, maxCount)
		}
	}
	return nil
}

// maxCount bounds what the breaker counts to.
const maxCount = 1_000_000
