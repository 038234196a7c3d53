package tasks

import "slices"

// Outcome is what finally became of a task.
type Outcome string

// The outcomes. Metrics, logs, receipts and tables use these words.
const (
	// Succeeded: KooDrive removed the binding or released the lock.
	Succeeded Outcome = "succeeded"
	// AlreadyGone: the device was not bound any more, or the lock not held.
	AlreadyGone Outcome = "already_gone"
	// Superseded: the intent was stale, so nothing was done. The user has bound the
	// device again, or the holder has renewed the lock, since the task was enqueued.
	Superseded Outcome = "superseded"
	// Cancelled: an operator has cancelled the task, alone or with its batch, before it
	// was carried out.
	Cancelled Outcome = "cancelled"
	// Dead: the task failed for good and is in the dead-letter queue.
	Dead Outcome = "dead"
	// Discarded: an operator has discarded the dead task. It will never be carried
	// out.
	Discarded Outcome = "discarded"
)

// Reason says why an attempt ended as it did. The set is closed: the same words
// are metric labels, values of a log field, and filters of dead letters.
type Reason string

// Reasons that come from KooDrive's answer, or from the lack of one.
const (
	OK           Reason = "ok"           // done
	Gone         Reason = "already_gone" // there was nothing to do
	Invalid      Reason = "invalid"      // KooDrive refuses the parameters
	Forbidden    Reason = "forbidden"    // no permission for this user or target
	Unauthorized Reason = "unauthorized" // the credential was refused, renewal included
	Throttled    Reason = "throttled"    // too many requests
	Upstream     Reason = "upstream"     // KooDrive or its gateway has failed
	TimedOut     Reason = "timeout"      // no answer in time
	Network      Reason = "network"      // no connection, or it broke
	Protocol     Reason = "protocol"     // an answer that makes no sense
	Misrouted    Reason = "misrouted"    // the answer is not KooDrive's: wrong URL or gateway
	Rejected     Reason = "rejected"     // a KooDrive code that the table does not know
)

// Reasons that arise before or around the call.
const (
	Undecodable Reason = "undecodable"  // the payload is not a task
	UnknownKind Reason = "unknown_kind" // this version does not know the task's kind
	Expired     Reason = "expired"      // not_after has passed
	Panicked    Reason = "panic"        // the worker's own code failed
	Crashed     Reason = "crashed"      // the task kept crashing its worker
	Archived    Reason = "archived"     // asynq or an operator archived the task, and its last error does not say why
	StillBound  Reason = "still_bound"  // after all its rounds an off-boarding still finds bound devices or held locks
	Waiting     Reason = "waiting"      // the task waits, or has waited for too long, for something other than KooDrive
	Unlisted    Reason = "unlisted"     // the source of a sweep did not list its locks
	Outdated    Reason = "superseded"   // the intent is stale, there is a newer one
	CalledOff   Reason = "cancelled"    // an operator has cancelled the task
)

// MayBeDone follows the reason of a receipt if a task is cancelled after a call whose answer is
// not known.
const MayBeDone = "; an earlier call may have carried it out"

// Reasons lists every reason.
func Reasons() []Reason {
	return []Reason{
		OK, Gone, Invalid, Forbidden, Unauthorized, Throttled, Upstream, TimedOut,
		Network, Protocol, Misrouted, Rejected,
		Undecodable, UnknownKind, Expired, Panicked, Crashed, Archived, StillBound, Waiting, Unlisted, Outdated, CalledOff,
	}
}

// Known reports whether r is one of Reasons.
func (r Reason) Known() bool { return slices.Contains(Reasons(), r) }
