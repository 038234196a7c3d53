package pipeline

import (
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// Result is what a job returns for one attempt. Make one with Done, AlreadyGone,
// Superseded, Cancelled, Snooze, Wait, Outage or Failed.
type Result struct {
	Kind ResultKind
	// Problem says why the work is not done. Its Reason is OK or Gone if it is done.
	Problem
	// Device is the device that an unbind removed, nil if it is not known.
	Device *tasks.Device
}

// ResultKind tells the results apart.
type ResultKind int

// The kinds of results. The constructor of the same name says what each means.
const (
	IsDone ResultKind = iota + 1
	IsAlreadyGone
	IsSuperseded
	IsCancelled
	IsSnooze
	IsWait
	IsOutage
	IsFailed
)

// Problem says why the work of a task is not done.
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

// Superseded says that the task is out of date, so that its work must not be done.
func Superseded(why string) Result {
	return Result{Kind: IsSuperseded, Problem: Problem{Reason: tasks.Outdated, Detail: why}}
}

// Cancelled says that an operator has cancelled the task, so that its work must not be
// done. why is what the operator says, and may be empty.
func Cancelled(why string) Result {
	return Result{Kind: IsCancelled, Problem: Problem{Reason: tasks.CalledOff, Detail: why}}
}

// Snooze says that the task must wait for KooDrive, for Redis, or for its own
// children, and that its call was not made. The task runs again, uncharged.
func Snooze(p Problem) Result { return Result{Kind: IsSnooze, Problem: p} }

// Wait says that the task must wait for something else, which may never come. The
// task runs again, uncharged, until it has waited for Policy.MaxWait. Then it is dead.
func Wait(p Problem) Result { return Result{Kind: IsWait, Problem: p} }

// Outage says that a call was made, and that it failed for a reason that affects
// every task alike. The task runs again, uncharged.
func Outage(p Problem) Result { return Result{Kind: IsOutage, Problem: p} }

// Failed says that the answer is about this task. The policy decides whether it
// counts as an attempt, and whether there is another one.
func Failed(p Problem) Result { return Result{Kind: IsFailed, Problem: p} }

// Succeeded reports whether the work is done, by this attempt or before it.
func (r Result) Succeeded() bool { return r.Kind == IsDone || r.Kind == IsAlreadyGone }

// errorLine is the error that the queue shows.
func (p Problem) errorLine() string {
	if p.Detail == "" {
		return string(p.Reason)
	}
	return string(p.Reason) + ": " + p.Detail
}
