package gate

import (
	"slices"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate/quota"
)

// Kind is a kind of call to the API. Each kind has a breaker of its own: the
// gateway may refuse one kind and let the others pass.
type Kind string

// The kinds of calls.
const (
	Unbind  Kind = "unbind"
	Release Kind = "release"
	List    Kind = "list"
)

// Kinds lists every kind of call.
func Kinds() []Kind { return []Kind{Unbind, Release, List} }

// Call says which call a task wants to make.
type Call struct {
	Kind   Kind
	User   string
	Target string // the device or lock; "" if the call is about the user alone
}

// Answer is what the gate needs to know about how a call ended.
type Answer struct {
	Reason     tasks.Reason
	RetryAfter time.Duration // 0: the answer named no time
	Limit      quota.Limit   // the quota that the answer named; zero if it named none
	NotSent    bool          // no server received the call, so the task is not at fault
}

// State is a breaker's state. Its String is the word for logs and metrics.
type State int

// The states.
const (
	Closed   State = iota // calls pass
	HalfOpen              // a probe is under way
	Open                  // no call is made before the next probe
)

// String implements fmt.Stringer.
func (s State) String() string {
	return [...]string{Closed: "closed", HalfOpen: "half-open", Open: "open"}[s]
}

// canceled is the reason of a call that this side canceled. It says nothing.
const canceled tasks.Reason = ""

// isFailure reports whether an answer of this reason may be the sign of an outage.
// A 429, a canceled call and a panic are no signs of anything.
func isFailure(r tasks.Reason) bool { return classOf(r) != "" }

// classOf returns the class of a failure: failures of one class count together.
// It returns "" if the reason is no failure.
func classOf(r tasks.Reason) tasks.Reason {
	switch r {
	case tasks.Upstream, tasks.TimedOut, tasks.Network, tasks.Protocol:
		return tasks.Upstream
	case tasks.Unauthorized, tasks.Misrouted, tasks.Rejected, tasks.Forbidden, tasks.Invalid:
		return r
	default:
		return ""
	}
}

// OpenReasons lists the reasons for which a breaker may be open.
func OpenReasons() []tasks.Reason {
	return slices.DeleteFunc(tasks.Reasons(), func(r tasks.Reason) bool { return !isFailure(r) })
}

// isSuccess reports whether the call did its work, or found it done.
func isSuccess(r tasks.Reason) bool { return r == tasks.OK || r == tasks.Gone }

// isVerdict reports whether KooDrive itself looked at the task and refused it.
func isVerdict(class tasks.Reason) bool { return class == tasks.Forbidden || class == tasks.Invalid }

// proves reports whether an answer shows that calls do not all fail with a failure
// of this class.
func proves(answer, class tasks.Reason) bool {
	return isSuccess(answer) || isVerdict(answer) && !isVerdict(class) && class != tasks.Rejected
}
