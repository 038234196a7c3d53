package pipeline

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"go.uber.org/zap"

	"github.com/kooworker/kooworker/tasks"
)

// Delivery is one task as it came out of the queue.
type Delivery struct {
	ID      string
	Queue   string
	Kind    tasks.Kind
	Payload []byte
	// Attempts is the number of charged attempts so far.
	Attempts int
	// Retries and RetryLimit are the queue's own count and limit; see
	// tasks.MaxRetry.
	Retries, RetryLimit int
	// Replay marks a dead letter that is tried once more in its place. When
	// it fails again it goes back to being dead at once.
	Replay bool
}

// Answer is what KooDrive's API said, or what stood in the way.
type Answer struct {
	Reason     tasks.Reason
	Message    string        // one printable line without the reason; no secrets
	Hint       string        // what an operator can do about it; may be empty
	RetryAfter time.Duration // 0: the answer named no time
	// Held marks an answer that is not about this task: the call was not made,
	// or what it met would have met any other. The task comes back uncharged,
	// after RetryAfter or Policy.Pause.
	Held bool
	// Uncalled marks an answer of our own: no call was made.
	Uncalled bool
	// Superseded: the intent is stale, nothing was done, and nothing is to be done.
	Superseded bool
	// Device is the device that an unbind removed, nil where it is not known.
	Device *tasks.Device
}

// API is KooDrive as the pipeline needs it.
type API interface {
	// Do carries a task out.
	Do(ctx context.Context, t tasks.Task, in tasks.Intent) Answer
	// BoundSince returns when the device of an unbind was bound to its user.
	// The time is zero when it is not bound. It is valid only if the answer's
	// reason is OK.
	BoundSince(ctx context.Context, t tasks.DeviceUnbind) (time.Time, Answer)
}

// Letter is a task that is dead.
type Letter struct {
	Delivery
	Task   tasks.Task   // nil where the payload could not be decoded
	Intent tasks.Intent // zero where Task is nil
	Reason tasks.Reason
	Error  string
}

// Queue is where tasks go that cannot stay where they are. Neither method may
// return nil before the task, or one that stands for it, is stored.
type Queue interface {
	// Park moves a dead task to the dead-letter queue.
	Park(ctx context.Context, l Letter) error
	// Requeue enqueues a task again, under our own retry limit, to run after
	// the delay.
	Requeue(ctx context.Context, d Delivery, delay time.Duration) error
}

// Ledger keeps account of the tasks of batches.
type Ledger interface {
	// Settle notes what became of a task. It returns nil once that is stored, or
	// was before. Receipt.At is not set: the time is the ledger's own.
	Settle(ctx context.Context, r tasks.Receipt) error
}

// Event is one attempt, as observers see it.
type Event struct {
	Delivery Delivery
	Task     tasks.Task // nil where the payload could not be decoded
	Decision  Decision
	Took     time.Duration
}

// Observer is told of every attempt after it was judged. It must not block.
type Observer interface {
	Observe(e Event)
}

// Config holds what a Pipeline needs. Every field but the first three has a
// default.
type Config struct {
	API    API
	Queue  Queue
	Ledger Ledger
	// Policy decides about repetition. Default DefaultPolicy.
	Policy *Policy
	// GuardAfter is the age from which an unbind is checked against a newer
	// binding before it is carried out. Default 10 min.
	GuardAfter time.Duration
	// Observer is told of each attempt. Default: nobody.
	Observer Observer
	// Logger receives a line per attempt. Default: none.
	Logger *zap.Logger
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

// DefaultGuardAfter is Config.GuardAfter's default.
const DefaultGuardAfter = 10 * time.Minute

// Pipeline processes deliveries. It is safe for concurrent use.
type Pipeline struct {
	api        API
	queue      Queue
	ledger     Ledger
	policy     Policy
	guardAfter time.Duration
	observer   Observer
	journal    *attemptLog
	now        func() time.Time
}

// New checks a configuration and returns a Pipeline.
func New(cfg Config) (*Pipeline, error) {
	if cfg.API == nil || cfg.Queue == nil || cfg.Ledger == nil {
		return nil, errors.New("pipeline: Config.API, Config.Queue and Config.Ledger are required")
	}
	policy := DefaultPolicy()
	if cfg.Policy != nil {
		policy = *cfg.Policy
	}
	if err := policy.validate(); err != nil {
		return nil, err
	}
	if cfg.GuardAfter < 0 {
		return nil, fmt.Errorf("guard after is %s; want 0 (%s) or more", cfg.GuardAfter, DefaultGuardAfter)
	}
	p := &Pipeline{api: cfg.API, queue: cfg.Queue, ledger: cfg.Ledger, policy: policy, guardAfter: cfg.GuardAfter, observer: cfg.Observer, now: cfg.Now}
	if p.guardAfter == 0 {
		p.guardAfter = DefaultGuardAfter
	}
	if p.now == nil {
		p.now = time.Now
	}
	logger := cfg.Logger
	if logger == nil {
		logger = zap.NewNop()
	}
	p.journal = newAttemptLog(logger, p.now)
	return p, nil
}

// Process takes one delivery through its life. What it returns is still to be
// told to asynq, by Settle.
func (p *Pipeline) Process(ctx context.Context, d Delivery) Decision {
	start := p.now()
	task, intent, answer := p.decode(d)
	if task != nil {
		answer = p.attempt(ctx, task, intent)
	}
	verdict := p.classify(ctx, d, answer)
	verdict = p.settle(ctx, d, task, intent, verdict)
	if verdict.Action != Retry && intent.BatchRef.IsSet() {
		verdict = p.receipt(ctx, d, task, intent.BatchRef, answer.Device, verdict)
	}

	event := Event{Delivery: d, Task: task, Decision: verdict, Took: p.now().Sub(start)}
	p.journal.record(event, answer)
	if p.observer != nil {
		p.observer.Observe(event)
	}
	return verdict
}

// decode turns bytes into a task. Where there is none, the answer says why.
func (p *Pipeline) decode(d Delivery) (tasks.Task, tasks.Intent, Answer) {
	task, intent, err := tasks.Decode(d.Kind, d.Payload)
	switch {
	case errors.Is(err, tasks.ErrUnknownKind):
		return nil, tasks.Intent{}, Answer{
			Reason: tasks.UnknownKind, Message: err.Error(),
			Hint: "a newer producer may have written it: upgrade the workers, then replay",
		}
	case err != nil:
		return nil, tasks.Intent{}, Answer{Reason: tasks.Undecodable, Message: err.Error()}
	}
	return task, intent, Answer{}
}

// attempt admits and calls. A panic in either is an answer like any other: the
// stack goes to the log and the task will be tried again.
func (p *Pipeline) attempt(ctx context.Context, task tasks.Task, intent tasks.Intent) (answer Answer) {
	defer func() {
		if x := recover(); x != nil {
			p.journal.panicked(task, x, debug.Stack())
			answer = Answer{Reason: tasks.Panicked, Message: "the worker's own code failed", Hint: "a bug in kooworker: the stack is in the log"}
		}
	}()
	ctx, cancel := withDeadlineMargin(ctx, p.now())
	defer cancel()
	if answer, admitted := p.admit(ctx, task, intent); !admitted {
		return answer
	}
	return p.api.Do(ctx, task, intent)
}

// admit decides whether the task may still be carried out; where it may not,
// the answer says why.
func (p *Pipeline) admit(ctx context.Context, task tasks.Task, intent tasks.Intent) (Answer, bool) {
	if !intent.NotAfter.IsZero() && p.now().After(intent.NotAfter) {
		return Answer{Reason: tasks.Expired, Message: "its not_after, " + intent.NotAfter.Format(time.RFC3339) + ", has passed"}, false
	}
	unbind, ok := task.(tasks.DeviceUnbind)
	if !ok || intent.NoGuard || intent.EnqueuedAt.IsZero() || p.now().Sub(intent.EnqueuedAt) < p.guardAfter {
		return Answer{}, true
	}
	bound, answer := p.api.BoundSince(ctx, unbind)
	switch {
	case answer.Reason == tasks.Gone: // nothing is listed for this user; the call itself will tell
		return Answer{}, true
	case answer.Reason != tasks.OK:
		return answer, false
	case bound.After(intent.EnqueuedAt):
		return Answer{Reason: tasks.OK, Superseded: true, Message: "bound again at " + bound.UTC().Format(time.RFC3339) + ", after it was enqueued"}, false
	}
	return Answer{}, true
}

// classify turns an answer into a verdict.
func (p *Pipeline) classify(ctx context.Context, d Delivery, answer Answer) Decision {
	if answer.Superseded {
		return Decision{Action: Complete, Outcome: tasks.Superseded, Reason: tasks.Outdated, Attempt: d.Attempts}
	}
	if ctx.Err() != nil && answer.Reason != tasks.OK && answer.Reason != tasks.Gone {
		// Cut short by a shutdown, an operator's cancel or a lost lease. asynq
		// has most likely put it back already; if not: soon, and uncharged.
		return Decision{Action: Retry, Reason: answer.Reason, Attempt: d.Attempts, Delay: time.Second, Error: errorLine(answer)}
	}
	if answer.Held {
		delay := answer.RetryAfter
		if delay <= 0 {
			delay = p.policy.pause()
		}
		return Decision{Action: Retry, Reason: answer.Reason, Attempt: d.Attempts, Delay: delay, Error: errorLine(answer)}
	}
	v := p.policy.Decide(answer.Reason, d.Attempts, d.RetryLimit-d.Retries+d.Attempts, answer.RetryAfter)
	if d.Replay && v.CountsAsAttempt && v.Action == Retry {
		v.Action, v.Outcome, v.Delay = Park, tasks.Dead, 0
	}
	if v.Action != Complete {
		v.Error = errorLine(answer)
	}
	return v
}

// settle moves what cannot stay. Only when that is done may the original go.
// A process that dies in between leaves the original active: it runs again,
// and finds its letter parked or its other self enqueued.
func (p *Pipeline) settle(ctx context.Context, d Delivery, task tasks.Task, intent tasks.Intent, v Decision) Decision {
	if d.Replay {
		return v // dead letters stay in their place
	}
	if v.Action == Park {
		letter := Letter{Delivery: d, Task: task, Intent: intent, Reason: v.Reason, Error: v.Error}
		letter.Attempts = v.Attempt
		err := p.queue.Park(ctx, letter)
		if err == nil {
			return v
		}
		p.journal.logStoreError("dead, but could not be parked yet; it will come to the same end again", d, err)
		v = v.retryUncharged(d, randDuration(p.policy.ThrottleMin, p.policy.ThrottleMax))
	}
	if v.Action == Retry && !v.CountsAsAttempt && d.Retries >= d.RetryLimit {
		// asynq would archive it whatever we return.
		if err := p.queue.Requeue(ctx, d, v.Delay); err != nil {
			p.journal.logStoreError("could not be readmitted; asynq archives it, and recovery collects it", d, err)
			return v
		}
		v.Requeued = true
	}
	return v
}

// receiptTimeout is how long the ledger may take. Beyond it the task runs again.
const receiptTimeout = 15 * time.Second

// receipt lets the ledger take note of an outcome, before the task may go. A
// process that dies in between leaves the task active: it runs again, finds
// nothing left to do, and the ledger keeps the outcome that it noted first. One
// that dies before the note was made runs again as well, and its receipt says
// already_gone for what the first run has removed.
//
// KooDrive has answered by now, so this goes on when the task is cut short.
func (p *Pipeline) receipt(ctx context.Context, d Delivery, task tasks.Task, place tasks.BatchRef, device *tasks.Device, v Decision) Decision {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), receiptTimeout)
	defer cancel()
	r := tasks.Receipt{
		BatchRef: place, Kind: d.Kind, UserID: task.User(), Target: task.Target(),
		Outcome: v.Outcome, Reason: v.Reason, Attempts: v.Attempt, Device: device,
		Again: d.Replay && v.Action == Park,
	}
	if v.Action == Complete {
		r.Attempts++ // the answer that finished it is charged to nobody
	}
	if err := p.ledger.Settle(ctx, r); err != nil {
		p.journal.logStoreError("done, but its receipt could not be written yet; it will come to the same end again", d, err)
		return v.retryUncharged(d, randDuration(p.policy.ThrottleMin, p.policy.ThrottleMax))
	}
	return v
}

// retryUncharged is the verdict when the dead letter, or the receipt, could not be
// stored: the attempt did not happen, and the task will come to the same end
// later.
func (v Decision) retryUncharged(d Delivery, delay time.Duration) Decision {
	return Decision{Action: Retry, Reason: v.Reason, Attempt: d.Attempts, Budget: v.Budget, Error: v.Error, Delay: delay}
}

func errorLine(a Answer) string {
	if a.Message == "" {
		return string(a.Reason)
	}
	return string(a.Reason) + ": " + a.Message
}

// withDeadlineMargin ends an attempt a little before asynq would: asynq frees the
// slot but cannot stop the call, and it would put the task back by its own
// rules.
func withDeadlineMargin(ctx context.Context, now time.Time) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return ctx, func() {}
	}
	left := deadline.Sub(now)
	return context.WithDeadline(ctx, now.Add(left-min(time.Second, left/4)))
}
