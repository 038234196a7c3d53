package gate

import (
	"errors"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/kooworker/kooworker/tasks"
)

// State is the breaker's. The values are gobreaker's.
type State int

// The states.
const (
	// Closed: calls pass.
	Closed State = iota
	// HalfOpen: a probe is under way, or the last ones were good.
	HalfOpen
	// Open: no call is made before the next probe.
	Open
)

// String returns the word for logs and metrics.
func (s State) String() string {
	switch s {
	case Closed:
		return "closed"
	case HalfOpen:
		return "half-open"
	case Open:
		return "open"
	default:
		return "unknown"
	}
}

// sense is what an answer says about KooDrive, whatever it says about the task.
type sense int

const (
	neither sense = iota
	success
	failure
)

// senseOf is the one place that sorts answers; the package's comment says why.
func senseOf(r tasks.Reason) sense {
	switch r {
	case tasks.OK, tasks.Gone, tasks.Invalid, tasks.Forbidden, tasks.Rejected:
		return success
	case tasks.Upstream, tasks.TimedOut, tasks.Network, tasks.Protocol, tasks.Unauthorized, tasks.Misrouted:
		return failure
	default: // throttled, panic, and what never comes from a call
		return neither
	}
}

// What gobreaker is told of a call that was no success.
var (
	errTrouble = errors.New("KooDrive is in trouble")
	errNeither = errors.New("says nothing about KooDrive")
)

// err is the sense in gobreaker's terms.
func (s sense) err() error {
	switch s {
	case success:
		return nil
	case failure:
		return errTrouble
	default:
		return errNeither
	}
}

// alarming reports whether a reason hits every task alike for certain.
func alarming(r tasks.Reason) bool { return r == tasks.Unauthorized || r == tasks.Misrouted }

// windowBuckets is the number of steps in which the window moves on.
const windowBuckets = 10

// tripper returns the question that gobreaker asks after each failure.
func (b *breaker) tripper(cfg Config) func(gobreaker.Counts) bool {
	inARow, minCalls := uint32(cfg.InARow), uint32(cfg.MinCalls) //nolint:gosec // at most maxCount
	return func(n gobreaker.Counts) bool {
		ended := n.TotalFailures + n.TotalSuccesses
		return n.ConsecutiveFailures >= inARow && time.Since(b.bad) >= cfg.Persist ||
			ended >= minCalls && float64(n.TotalFailures) >= cfg.Ratio*float64(ended) ||
			// b.row knows neither the window nor successes, gobreaker's count no reason.
			alarming(b.last) && min(n.ConsecutiveFailures, b.row) >= b.alarms
	}
}
