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
	// Jitter is the random part of a refused task's delay, so that tasks which
	// were refused together do not come back together. At least 1 s, since the
	// queue keeps whole seconds. Default 30 s.
	Jitter time.Duration

	// Window is how far back the breaker counts. Default 10 s.
	Window time.Duration
	// ConsecutiveFailures is the number of failures in a row that opens the
	// breaker, if the first of them is at least MinFailureTime ago. Default 10,
	// and 5 s.
	ConsecutiveFailures int
	MinFailureTime      time.Duration
	// Ratio is the share of failures, among at least MinCalls calls, that opens
	// the breaker. More than 0, at most 1. Default 0.5 of 20.
	Ratio    float64
	MinCalls int
	// SystemicFailures is the number of answers in a row that opens the breaker
	// if they are all unauthorized, or all misrouted: both affect every task
	// alike. Default 3.
	SystemicFailures int
	// Probes is the number of good probes in a row that closes the breaker.
	// Default 3.
	Probes int
	// ProbeMin and ProbeMax bound the delay before a probe. Delays double from
	// the one to the other, give or take a half. No delay is shorter than
	// ProbeMin for each live worker. Default 1 s to 1 min.
	ProbeMin, ProbeMax time.Duration
	// RampFrom is the number of calls a second with which the fleet starts
	// again after an outage. It doubles every second. Default 10.
	RampFrom float64

	// ThrottleMin and ThrottleMax bound the random pause after a throttled
	// answer that names no time. Default 2 s to 5 s, the vendor's advice.
	ThrottleMin, ThrottleMax time.Duration
	// ThrottleCap bounds the pause that an answer may ask for. After it the API
	// is called again. Default 15 min.
	ThrottleCap time.Duration

	// Fleet is the other workers. Default: none.
	Fleet Fleet
	// OnChange is called when the breaker changes its state. The reason is why
	// it left closed. It is called in order and under the gate's lock: it must
	// neither block nor call the gate. Default: nothing is called.
	OnChange func(from, to State, reason tasks.Reason)
}

func (c Config) withDefaults() Config {
	c.MaxWait = cmp.Or(c.MaxWait, 10*time.Second)
	c.Jitter = cmp.Or(c.Jitter, 30*time.Second)
	c.Window = cmp.Or(c.Window, 10*time.Second)
	c.ConsecutiveFailures = cmp.Or(c.ConsecutiveFailures, 10)
	c.MinFailureTime = cmp.Or(c.MinFailureTime, 5*time.Second)
	c.Ratio = cmp.Or(c.Ratio, 0.5)
	c.MinCalls = cmp.Or(c.MinCalls, 20)
	c.SystemicFailures = cmp.Or(c.SystemicFailures, 3)
	c.Probes = cmp.Or(c.Probes, 3)
	c.ProbeMin = cmp.Or(c.ProbeMin, time.Second)
	c.ProbeMax = cmp.Or(c.ProbeMax, time.Minute)
	c.RampFrom = cmp.Or(c.RampFrom, 10)
	c.ThrottleMin = cmp.Or(c.ThrottleMin, 2*time.Second)
	c.ThrottleMax = cmp.Or(c.ThrottleMax, 5*time.Second)
	c.ThrottleCap = cmp.Or(c.ThrottleCap, 15*time.Minute)
	if c.Fleet == nil {
		c.Fleet = solo{}
	}
	if c.OnChange == nil {
		c.OnChange = func(State, State, tasks.Reason) {}
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
	case c.Window < windowBuckets*time.Millisecond:
		return fmt.Errorf("gate: window is %s; want at least %s", c.Window, windowBuckets*time.Millisecond)
	case c.MinFailureTime < 0:
		return fmt.Errorf("gate: min failure time is %s; want more than 0", c.MinFailureTime)
	case math.IsNaN(c.Ratio) || c.Ratio <= 0 || c.Ratio > 1:
		return fmt.Errorf("gate: ratio is %g; want more than 0, at most 1", c.Ratio)
	case math.IsNaN(c.RampFrom) || math.IsInf(c.RampFrom, 0) || c.RampFrom <= 0:
		return fmt.Errorf("gate: ramp from is %g; want calls per second", c.RampFrom)
	case c.ProbeMin < time.Millisecond || c.ProbeMax < c.ProbeMin:
		return fmt.Errorf("gate: probe delay is %s to %s; want at least 1ms, and the second not below the first", c.ProbeMin, c.ProbeMax)
	case c.ThrottleMin < 0 || c.ThrottleMax < c.ThrottleMin || c.ThrottleCap < c.ThrottleMax:
		return fmt.Errorf("gate: throttle pause is %s to %s, capped at %s; want them to rise", c.ThrottleMin, c.ThrottleMax, c.ThrottleCap)
	}
	for _, count := range []struct {
		name  string
		value int
	}{{"consecutive failures", c.ConsecutiveFailures}, {"min calls", c.MinCalls}, {"systemic failures", c.SystemicFailures}, {"probes", c.Probes}} {
		if count.value < 1 || count.value > maxCount {
			return fmt.Errorf("gate: %s is %d; want 1 to %d", count.name, count.value, maxCount)
		}
	}
	return nil
}

// maxCount bounds what the breaker counts to.
const maxCount = 1_000_000
