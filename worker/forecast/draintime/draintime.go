// Package draintime predicts how long workers take for many tasks.
//
// The model has three limits. The lowest of them is the rate:
//
//	attempts for a task = 1 / (1 - failure share)
//	calls for a task    = attempts for a task × calls for an attempt
//	tasks per second    = min(quota / calls for a task,
//	                          slots / (latency × calls for a task),
//	                          attempts the machines can make / attempts for a task)
//	time                = tasks / tasks per second
//
// The second limit is Little's law: a slot that makes calls of 50 ms makes 20 of them a second.
//
// The model leaves out
//
//   - other tasks: the lanes take turns, so a batch gets a share of the rate while others wait
//     as well, and the whole of it when it is alone;
//   - the order: a task that fails goes to the end of its lane, so that in the first part of a
//     long queue fewer tasks are done per second than on average, and more in the last part;
//   - that the calls for an attempt change: an unbind that is older than ten minutes needs two;
//   - the end: the last tasks that fail wait for their backoff, which is 2 s after the first
//     failure and 15 min at most, while the workers have nothing else to do;
//   - the beginning: a quota that nobody has told the workers takes them some seconds to learn;
//   - outages: while KooDrive is down, nothing is done.
//
// It imports nothing of this module. The commands that show the time left of a batch use
// it; docs/scale.md quotes it.
package draintime

import (
	"math"
	"time"
)

// Model is what the rate of the workers depends on. A limit that is 0 is not known.
type Model struct {
	// Quota is how many calls a second all workers together may make.
	Quota float64
	// Slots is how many tasks all workers together work on at a time, and Latency is how
	// long a call takes on average. They limit the rate if both are known.
	Slots   int
	Latency time.Duration
	// FailureShare is the share of attempts that fail and are repeated: at least 0, and
	// below 1.
	FailureShare float64
	// CallsPerAttempt is how many calls an attempt makes on average; 0 counts as 1. The
	// guard of an old unbind lists the devices first, which makes 2.
	CallsPerAttempt float64
	// AttemptsPerSecond is what the workers and Redis can do if the API answers at once.
	AttemptsPerSecond float64
}

// CallsPerTask returns how many calls a task needs on average.
func (m Model) CallsPerTask() float64 {
	calls := m.CallsPerAttempt
	if calls == 0 {
		calls = 1
	}
	return calls / (1 - m.FailureShare)
}

// Rate returns how many tasks are done per second. It is 0 if no limit is known.
func (m Model) Rate() float64 {
	rate := math.Inf(1)
	if m.Quota > 0 {
		rate = min(rate, m.Quota/m.CallsPerTask())
	}
	if m.Slots > 0 && m.Latency > 0 {
		rate = min(rate, float64(m.Slots)/m.Latency.Seconds()/m.CallsPerTask())
	}
	if m.AttemptsPerSecond > 0 {
		rate = min(rate, m.AttemptsPerSecond*(1-m.FailureShare))
	}
	if math.IsInf(rate, 1) {
		return 0
	}
	return rate
}

// Seconds returns how many seconds so many tasks take, 0 if that is not known. It is never
// less than the calls of one task take.
func (m Model) Seconds(tasks int64) float64 {
	rate := m.Rate()
	if rate == 0 || tasks <= 0 {
		return 0
	}
	return max(float64(tasks)/rate, m.Latency.Seconds()*m.CallsPerTask())
}
