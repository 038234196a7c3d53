package pipeline

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// Policy decides how often a task is tried, and when.
type Policy struct {
	// MaxAttempts is how many failed attempts make a task dead. 1 to 500. Default 12.
	MaxAttempts int
	// Attempts holds smaller budgets for single reasons. A budget above MaxAttempts
	// has no effect. Default: rejected 5, invalid 1, forbidden 1.
	Attempts map[tasks.Reason]int
	// Backoff is the delay between charged attempts.
	Backoff Backoff
	// ThrottleMin and ThrottleMax bound the random wait after a throttled
	// answer that names no time. Default 2 s to 5 s, the vendor's advice.
	ThrottleMin, ThrottleMax time.Duration
	// Pause is the mean wait after an attempt that is not charged and names no time. The
	// wait is random, 0.5 to 1.5 times Pause. Default 10 s.
	Pause time.Duration
	// MaxWait is how long a task may wait for something other than KooDrive and Redis,
	// such as a source of locks that no worker has. Then it is dead. At least 1 min.
	// Default 24 h.
	MaxWait time.Duration
}

// DefaultPolicy returns the defaults.
func DefaultPolicy() Policy {
	return Policy{
		MaxAttempts: 12,
		Attempts:    map[tasks.Reason]int{tasks.Rejected: 5, tasks.Invalid: 1, tasks.Forbidden: 1},
		Backoff:     DefaultBackoff(),
		ThrottleMin: 2 * time.Second,
		ThrottleMax: 5 * time.Second,
		Pause:       10 * time.Second,
		MaxWait:     24 * time.Hour,
	}
}

// maxAttempts keeps every budget well below tasks.MaxRetry.
const maxAttempts = 500

func (p Policy) validate() error {
	if p.MaxAttempts < 1 || p.MaxAttempts > maxAttempts {
		return fmt.Errorf("max attempts is %d; want 1 to %d", p.MaxAttempts, maxAttempts)
	}
	for reason, n := range p.Attempts {
		if !reason.Known() || n < 1 || n > maxAttempts {
			return fmt.Errorf("attempts for reason %q is %d; want a known reason and 1 to %d", reason, n, maxAttempts)
		}
	}
	if p.ThrottleMin < time.Second || p.ThrottleMax < p.ThrottleMin {
		return fmt.Errorf("throttle wait is %s to %s; want at least 1s, and the second not below the first", p.ThrottleMin, p.ThrottleMax)
	}
	if p.Pause < time.Second {
		return fmt.Errorf("pause is %s; want at least 1s", p.Pause)
	}
	if p.MaxWait < time.Minute {
		return fmt.Errorf("max wait is %s; want at least 1m", p.MaxWait)
	}
	if err := p.Backoff.validate(); err != nil {
		return fmt.Errorf("backoff: %w", err)
	}
	return nil
}

// Action says what happens with a task after an attempt.
type Action int

// The actions.
const (
	// Complete: the task is done, superseded or cancelled; remove it.
	Complete Action = iota
	// Retry: put the task back and run it after Delay.
	Retry
	// Park: the task is dead; move it to the dead-letter queue.
	Park
)

// Decision says what happens with a task after an attempt, and why.
type Decision struct {
	Action          Action
	Outcome         tasks.Outcome // set unless Action is Retry
	Reason          tasks.Reason
	CountsAsAttempt bool          // the attempt counts against the budget
	Attempt         int           // charged attempts so far, this one included
	Budget          int           // attempts allowed for this reason
	Delay           time.Duration // until the next run, where Action is Retry
	Error           string        // one line that begins with the reason; "" when completed
	Requeued        bool          // a copy waits under another ID; asynq may remove the original
}

// Decide turns the reason of an attempt into a decision. attempts is the number of
// charged attempts before this one. limit is the queue's own retry limit, which may
// be below the policy's. wait is the time that the answer asked to wait, or 0.
func (p Policy) Decide(reason tasks.Reason, attempts, limit int, wait time.Duration) Decision {
	d := Decision{Reason: reason, Attempt: attempts, Budget: p.budget(reason, limit)}
	switch reason {
	case tasks.OK:
		d.Action, d.Outcome = Complete, tasks.Succeeded
	case tasks.Gone:
		d.Action, d.Outcome = Complete, tasks.AlreadyGone
	case tasks.Throttled:
		d.Action, d.Delay = Retry, wait
		if wait <= 0 {
			d.Delay = randDuration(p.ThrottleMin, p.ThrottleMax)
		}
	case tasks.Undecodable, tasks.UnknownKind, tasks.Expired, tasks.StillBound:
		d.Action, d.Outcome = Park, tasks.Dead
	default: // invalid, forbidden, rejected, unauthorized, misrouted, upstream, timeout, network, protocol, panic
		d.CountsAsAttempt = true
		d.Attempt++
		if d.Attempt >= d.Budget {
			d.Action, d.Outcome = Park, tasks.Dead
		} else {
			d.Action, d.Delay = Retry, max(wait, p.Backoff.Delay(d.Attempt))
		}
	}
	return d
}

// budget is the number of attempts for a reason. A task that the queue allows
// to be retried n times has n+1 attempts there.
func (p Policy) budget(reason tasks.Reason, limit int) int {
	n := p.MaxAttempts
	if special, ok := p.Attempts[reason]; ok {
		n = min(n, special)
	}
	return min(n, limit+1)
}

// pause is a random wait around Policy.Pause.
func (p Policy) pause() time.Duration { return randDuration(p.Pause/2, p.Pause*3/2) }

func randDuration(low, high time.Duration) time.Duration {
	return low + rand.N(high-low+1) //nolint:gosec // spreading load, not guarding a secret
}
