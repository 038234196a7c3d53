package pipeline

import (
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// Result is what a job returns: what became of one attempt. Make one with Done,
// AlreadyGone, Superseded, Snooze, Outage or Failed.
type Result struct {
	Kind ResultKind
	// Problem says what stood in the way; its Reason is OK or Gone if nothing did.
	Problem
	// Device is the device that an unbind removed, nil where it is not known.
	Device *tasks.Device
}

// ResultKind tells the results apart.
type ResultKind int

// The kinds of results; the constructors of the same names say what they mean.
const (
	IsDone ResultKind = iota + 1
	IsAlreadyGone
	IsSuperseded
	IsSnooze
	IsOutage
	IsFailed
)

// Problem is what stood in the way of a task.
type Problem struct {
	Reason tasks.Reason
	Detail string // one printable line without the reason and without secrets; may be empty
	Hint   string // what an operator can do about it; may be empty
	// RetryAfter is how long to wait before the next run. 0: the policy decides.
	RetryAfter time.Duration
}

// Done says that the work is done. device is what an unbind removed, or nil.
func Done(device *tasks.Device) Result {
	return Result{Kind: IsDone, Problem: Problem{Reason: tasks.OK}, Device: device}
}

// AlreadyGone says that there was nothing left to do.
func AlreadyGone() Result {
	return Result{Kind: IsAlreadyGone, Problem: Problem{Reason: tasks.Gone}}
}

// Superseded says that the intent is stale: nothing was done, and nothing is to
// be done.
func Superseded(why string) Result {
	return Result{Kind: IsSuperseded, Problem: Problem{Reason: tasks.Outdated, Detail: why}}
}

// Snooze says that nothing was sent to KooDrive, since something other than this
// task stands in the way. The task comes back uncharged.
func Snooze(p Problem) Result { return Result{Kind: IsSnooze, Problem: p} }

// Outage says that a call was made, and that what it met would have met any other
// task. The task comes back uncharged.
func Outage(p Problem) Result { return Result{Kind: IsOutage, Problem: p} }

// Failed says that the answer is about this task. The policy decides whether it
// counts as an attempt, and whether there is another one.
func Failed(p Problem) Result { return Result{Kind: IsFailed, Problem: p} }

// Succeeded reports whether the work is done, by this attempt or before it.
func (r Result) Succeeded() bool { return r.Kind == IsDone || r.Kind == IsAlreadyGone }

// errorLine is what the queue shows as the error.
func (p Problem) errorLine() string {
	if p.Detail == "" {
		return string(p.Reason)
	}
	return string(p.Reason) + ": " + p.Detail
}
