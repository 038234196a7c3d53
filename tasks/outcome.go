package tasks

import "slices"

// Outcome is what finally became of a task.
type Outcome string

// The outcomes. They are the words of metrics, logs, receipts and tables.
const (
	// Succeeded: KooDrive removed the binding or released the lock.
	Succeeded Outcome = "succeeded"
	// AlreadyGone: the device was not bound, or the lock not held, any more.
	AlreadyGone Outcome = "already_gone"
	// Superseded: the intent was stale; the user has bound the device again
	// since it was enqueued, and nothing was done.
	Superseded Outcome = "superseded"
	// Dead: failed for good and parked in the dead-letter queue.
	Dead Outcome = "dead"
	// Discarded: an operator has thrown the dead task away; it will never be
	// carried out.
	Discarded Outcome = "discarded"
)

// Reason says why an attempt ended as it did. The set is closed: it serves as
// metric label, log field and dead-letter filter alike.
type Reason string

// Reasons that an answer of KooDrive, or its absence, gives.
const (
	OK           Reason = "ok"           // done
	Gone         Reason = "already_gone" // there was nothing to do
	Invalid      Reason = "invalid"      // KooDrive refuses the parameters
	Forbidden    Reason = "forbidden"    // no permission for this user or target
	Unauthorized Reason = "unauthorized" // the credential was refused, renewal included
	Throttled    Reason = "throttled"    // too many requests
	Upstream     Reason = "upstream"     // KooDrive or its gateway is in trouble
	TimedOut     Reason = "timeout"      // no answer in time
	Network      Reason = "network"      // no connection, or it broke
	Protocol     Reason = "protocol"     // an answer that makes no sense
	Misrouted    Reason = "misrouted"    // the answer is not KooDrive's: wrong URL or gateway
	Rejected     Reason = "rejected"     // a KooDrive code that the table does not know
)

// Reasons that arise before or around the call.
const (
	Undecodable Reason = "undecodable"  // the payload is not a task
	UnknownKind Reason = "unknown_kind" // the task's type is not known here
	Expired     Reason = "expired"      // not_after has passed
	Panicked    Reason = "panic"        // the worker's own code failed
	Crashed     Reason = "crashed"      // it kept killing its worker
	Archived    Reason = "archived"     // asynq or an operator archived it, and its error does not say why
	StillBound  Reason = "still_bound"  // an off-boarding went round, and devices are bound or locks held all the same
	Waiting     Reason = "waiting"      // it waits for something else than KooDrive
	Unlisted    Reason = "unlisted"     // a sweep's source did not say which locks there are
	Outdated    Reason = "superseded"   // the intent is stale: there is a newer one
)

// Reasons lists every reason.
func Reasons() []Reason {
	return []Reason{
		OK, Gone, Invalid, Forbidden, Unauthorized, Throttled, Upstream, TimedOut,
		Network, Protocol, Misrouted, Rejected,
		Undecodable, UnknownKind, Expired, Panicked, Crashed, Archived, StillBound, Waiting, Unlisted, Outdated,
	}
}

// Known reports whether r is one of Reasons.
func (r Reason) Known() bool { return slices.Contains(Reasons(), r) }
