package gate

import (
	"errors"

	"github.com/sony/gobreaker/v2"

	"github.com/kooworker/kooworker/tasks"
)

// State is the breaker's. Its String is the word for logs and metrics.
type State = gobreaker.State

// The states.
const (
	// Closed: calls pass.
	Closed = gobreaker.StateClosed
	// HalfOpen: a probe is under way, or the last probes were good.
	HalfOpen = gobreaker.StateHalfOpen
	// Open: no call is made before the next probe.
	Open = gobreaker.StateOpen
)

// health is what an answer says about KooDrive, not about the task.
type health int

const (
	neutral health = iota // nothing
	success               // KooDrive works
	failure               // KooDrive is in trouble
)

// healthOf is the health of each reason. The package comment says why.
func healthOf(r tasks.Reason) health {
	switch r {
	case tasks.OK, tasks.Gone, tasks.Invalid, tasks.Forbidden, tasks.Rejected:
		return success
	case tasks.Upstream, tasks.TimedOut, tasks.Network, tasks.Protocol, tasks.Unauthorized, tasks.Misrouted:
		return failure
	default: // throttled, panic, and what never comes from a call
		return neutral
	}
}

// The errors that gobreaker gets for a call that was no success.
var (
	errFailure = errors.New("KooDrive is in trouble")
	errNeutral = errors.New("says nothing about KooDrive")
)

// err is the health in gobreaker's terms.
func (h health) err() error {
	switch h {
	case success:
		return nil
	case failure:
		return errFailure
	default:
		return errNeutral
	}
}

// isSystemic reports whether a reason certainly affects every task alike.
func isSystemic(r tasks.Reason) bool { return r == tasks.Unauthorized || r == tasks.Misrouted }
