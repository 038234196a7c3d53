package pipeline

import (
	"context"
	"errors"
	"runtime/debug"
	"strconv"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/internal/tracing"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// Delivery is one task as it came out of the queue.
type Delivery struct {
	ID      string
	Queue   string
	Kind    tasks.Kind
	Payload []byte
	// Headers are those of the task's message. Do not change them.
	Headers map[string]string
	// TraceID is the ID of the task's trace for its log lines, if it has one. Process
	// sets it.
	TraceID string
	// Attempts is the number of charged attempts so far.
	Attempts int
	// Retries and RetryLimit are the queue's own count and limit; see tasks.MaxRetry.
	Retries, RetryLimit int
	// Replay marks a dead letter that is tried once more where it is. If it fails
	// again, it is dead again at once.
	Replay bool
	// Suspect is true if the task was in flight when a worker died. See package
	// recovery.
	Suspect bool
	// Calling is passed on to the job; see Job.
	Calling func(ctx context.Context, calling bool) error
	// Attempted is called when the job is over, and only the outcome is left to be
	// stored. Nil: nobody asks.
	Attempted func()
}

// order tells one order from another. The ID alone does not: the same item of a batch
// that is deleted and made again has the same ID, and another enqueued_at. A replay is
// an order of its own.
func (d Delivery) order() string {
	return strconv.FormatBool(d.Replay) + d.ID + " " + string(d.Payload)
}

// lane returns the lane of the delivery. Dead letters have none, and there may be many
// of them.
func (d Delivery) lane() tasks.Lane {
	if d.Replay {
		return tasks.LaneBulk
	}
	_, lane := tasks.SplitQueue(d.Queue)
	return lane
}

// Job is a decoded task.
type Job struct {
	// ID is the asynq task ID.
	ID     string
	Task   tasks.Task
	Intent tasks.Intent
	// Lane is where the tasks belong that this one enqueues.
	Lane tasks.Lane
	// Calling is set for a task that may have killed a worker. Jobs that wait for a
	// permit say with it whether they make a call or wait: false when they begin,
	// true right before a call, and false right after it. Nil: nobody asks.
	Calling func(ctx context.Context, calling bool) error
}

// Jobs does what tasks ask for. *jobs.Jobs is one.
type Jobs interface {
	Do(ctx context.Context, j Job) Result
}

// DeadLetters stores dead tasks. *deadletter.Store is one.
type DeadLetters interface {
	// Park returns nil once the letter is stored.
	Park(ctx context.Context, l deadletter.Letter) error
}

// Receipts stores the receipts of tasks. *ReceiptBatcher is one.
type Receipts interface {
	// Record stores the receipt of a task. It returns nil if the receipt is stored,
	// by this call or before it, or need not be. Receipt.At is not set: Redis' clock sets it.
	Record(ctx context.Context, r tasks.Receipt) error
}

// Event describes one attempt.
type Event struct {
	Delivery Delivery
	Task     tasks.Task // nil where the payload could not be decoded
	Decision Decision
	Took     time.Duration
}

// Config holds what a Pipeline needs. Jobs, DeadLetters, Requeue, Waited and
// Receipts are required.
type Config struct {
	Jobs        Jobs
	DeadLetters DeadLetters
	// Requeue enqueues a copy of a task, under our own retry limit, to run after a
	// delay. It returns nil once the copy is stored. See NewRequeue.
	Requeue func(ctx context.Context, d Delivery, delay time.Duration) error
	// Waited notes that a task waits, and reports whether it has waited for at least
	// so long. See NewWaited.
	Waited   func(ctx context.Context, d Delivery, most time.Duration) (tooLong bool, err error)
	Receipts Receipts
	// Cancelled reports whether an operator has cancelled a task of a batch, and what the
	// operator says. It is asked before each attempt, and must not block. Default: none
	// is.
	Cancelled func(ref tasks.BatchRef, t tasks.Task) (why string, ok bool)
	// Held reports whether an operator holds a batch, until when, and what the operator
	// says. It is asked like Cancelled. Default: none is.
	Held func(ref tasks.BatchRef) (until time.Time, why string, ok bool)
	// TracerProvider makes the spans of attempts. Default: there are none.
	TracerProvider trace.TracerProvider
	// PutBackAt returns when asynq has last put a task back, the zero time if never. It is
	// asked for attempts that are recorded in a span. See NewPutBackAt. Default: it is not
	// known, and a retry has no span for its wait.
	PutBackAt func(ctx context.Context, d Delivery) (time.Time, error)
	// Policy decides about retries. Default DefaultPolicy.
	Policy *Policy
	// Observe is called with each attempt, after its decision. It must not block.
	// Default: nothing is called.
	Observe func(Event)
	// Logger gets a line for each attempt. Default: none.
	Logger *zap.Logger
	// NoSuccesses: a task that is done, or was already, gets no line.
	NoSuccesses bool
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

// Pipeline processes deliveries. It is safe for concurrent use.
type Pipeline struct {
	jobs     Jobs
	letters  DeadLetters
	requeue  func(ctx context.Context, d Delivery, delay time.Duration) error
	waited   func(ctx context.Context, d Delivery, most time.Duration) (tooLong bool, err error)
	receipts Receipts
	// cancelled and held are those of Config.
	cancelled func(ref tasks.BatchRef, t tasks.Task) (why string, ok bool)
	held      func(ref tasks.BatchRef) (until time.Time, why string, ok bool)
	tracer    trace.Tracer // nil if there are no spans
	putBackAt func(ctx context.Context, d Delivery) (time.Time, error)
	policy    Policy
	observe   func(Event)
	// unrecorded has the results of tasks whose receipts could not be written yet, by
	// Delivery.order.
	unrecorded *lru.Cache[string, Result]

	log *attemptLog
	now func() time.Time
}

// New checks a configuration and returns a Pipeline.
func New(cfg Config) (*Pipeline, error) {
	if cfg.Jobs == nil || cfg.DeadLetters == nil || cfg.Requeue == nil || cfg.Waited == nil || cfg.Receipts == nil {
		return nil, errors.New("pipeline: Config.Jobs, DeadLetters, Requeue, Waited and Receipts are required")
	}
	unrecorded, err := lru.New[string, Result](maxUnrecorded)
	if err != nil {
		return nil, err
	}
	p := &Pipeline{
		jobs: cfg.Jobs, letters: cfg.DeadLetters, requeue: cfg.Requeue, waited: cfg.Waited, receipts: cfg.Receipts, cancelled: cfg.Cancelled, held: cfg.Held,
		tracer: tracing.Tracer(cfg.TracerProvider, "worker/pipeline"), putBackAt: cfg.PutBackAt,
		policy: DefaultPolicy(), observe: cfg.Observe, unrecorded: unrecorded, now: cfg.Now,
	}
	if cfg.Policy != nil {
		p.policy = *cfg.Policy
	}
	if err := p.policy.validate(); err != nil {
		return nil, err
	}
	if p.now == nil {
		p.now = time.Now
	}
	if p.cancelled == nil {
		p.cancelled = func(tasks.BatchRef, tasks.Task) (string, bool) { return "", false }
	}
	if p.held == nil {
		p.held = func(tasks.BatchRef) (time.Time, string, bool) { return time.Time{}, "", false }
	}
	logger := cfg.Logger
	if logger == nil {
		logger = zap.NewNop()
	}
	p.log = newAttemptLog(logger, p.now, cfg.NoSuccesses)
	return p, nil
}

// Process decodes one delivery, attempts it, decides and settles. The caller hands
// the decision to asynq by ToAsynqError.
func (p *Pipeline) Process(ctx context.Context, d Delivery) Decision {
	start := p.now()
	job, result := p.decode(d)
	ctx, span := p.startSpan(ctx, d, job, start)
	d.TraceID = span.traceID(d)
	if kept, ok := p.keptResult(d); ok && job.Task != nil {
		result = kept
	} else if job.Task != nil {
		result = p.attempt(ctx, job)
	}
	if d.Attempted != nil {
		d.Attempted()
	}
	decision := p.decide(ctx, d, result)
	if decision.Action != Retry && job.Task != nil && job.Task.User() != "" {
		decision = p.writeReceipt(ctx, d, job, result, decision)
	}
	decision = p.settle(ctx, d, job, decision)
	p.endSpan(ctx, span, d, job, decision)

	event := Event{Delivery: d, Task: job.Task, Decision: decision, Took: p.now().Sub(start)}
	p.log.write(event, result)
	if p.observe != nil {
		p.observe(event)
	}
	return decision
}

// PutBack decides that a delivery waits without an attempt. The caller hands the
// decision to asynq, as with Process.
func (p *Pipeline) PutBack(ctx context.Context, d Delivery, why Problem) Decision {
	return p.settle(ctx, d, Job{}, d.retryUncharged(why, why.RetryAfter))
}

// decode turns bytes into a job. If they are no task, Job.Task is nil, and the
// result says why.
func (p *Pipeline) decode(d Delivery) (Job, Result) {
	task, intent, err := tasks.Decode(d.Kind, d.Payload)
	switch {
	case errors.Is(err, tasks.ErrUnknownKind):
		return Job{}, Failed(Problem{
			Reason: tasks.UnknownKind, Detail: err.Error(), Hint: tasks.UnknownKind.Hint(),
		})
	case err != nil:
		return Job{}, Failed(Problem{Reason: tasks.Undecodable, Detail: err.Error(), Hint: tasks.Undecodable.Hint()})
	}
	return Job{ID: d.ID, Task: task, Intent: intent, Lane: d.lane(), Calling: d.Calling}, Result{}
}

// attempt lets the job do the work, unless the task is cancelled or held, or has expired. A
// panic becomes a Failed result: the stack goes to the log, and the task is tried again.
func (p *Pipeline) attempt(ctx context.Context, job Job) (result Result) {
	defer func() {
		if x := recover(); x != nil {
			p.log.panicked(job.Task, x, debug.Stack())
			result = Failed(Problem{Reason: tasks.Panicked, Detail: "the worker's own code failed", Hint: tasks.Panicked.Hint()})
		}
	}()
	if why, ok := p.cancelled(job.Intent.BatchRef, job.Task); ok {
		return Cancelled(why)
	}
	if until, why, ok := p.held(job.Intent.BatchRef); ok {
		return Snooze(Problem{Reason: tasks.Waiting, Detail: "its batch is held: " + why, RetryAfter: until.Sub(p.now())})
	}
	if limit := job.Intent.NotAfter; !limit.IsZero() && p.now().After(limit) {
		return Failed(Problem{Reason: tasks.Expired, Detail: "its not_after, " + limit.Format(time.RFC3339) + ", has passed", Hint: tasks.Expired.Hint()})
	}
	ctx, cancel := withDeadlineMargin(ctx, p.now())
	defer cancel()
	return p.jobs.Do(ctx, job)
}

// decide turns a result into a decision.
func (p *Pipeline) decide(ctx context.Context, d Delivery, r Result) Decision {
	interrupted := ctx.Err() != nil && !r.Succeeded()
	switch {
	case r.Kind == IsCancelled:
		return Decision{Action: Complete, Outcome: tasks.Cancelled, Reason: r.Reason, Attempt: d.Attempts}
	case r.Kind == IsSuperseded:
		return Decision{Action: Complete, Outcome: tasks.Superseded, Reason: r.Reason, Attempt: d.Attempts}
	case interrupted:
		// A shutdown, an operator's cancel or a lost lease ended the attempt. If asynq
		// has not put the task back already, it runs again soon, uncharged. What the call
		// says of its end is not KooDrive's doing.
		return d.retryUncharged(Problem{Reason: tasks.Waiting, Detail: "the attempt was cut short (" + context.Cause(ctx).Error() + ")"}, time.Second)
	case r.Kind == IsSnooze || r.Kind == IsOutage || r.Kind == IsWait && !p.waitedTooLong(ctx, d):
		delay := r.RetryAfter
		if delay <= 0 {
			delay = p.policy.pause()
		}
		return d.retryUncharged(r.Problem, delay)
	case r.Kind == IsWait:
		text := r.errorLine() + "; it has waited for " + p.policy.MaxWait.String()
		return Decision{Action: Park, Outcome: tasks.Dead, Reason: r.Reason, Attempt: d.Attempts, Error: text}
	}
	decision := p.policy.Decide(r.Reason, d.Attempts, d.RetryLimit-d.Retries+d.Attempts, r.RetryAfter)
	if d.Replay && decision.CountsAsAttempt && decision.Action == Retry {
		decision.Action, decision.Outcome, decision.Delay = Park, tasks.Dead, 0
	}
	if decision.Action != Complete {
		decision.Error = r.errorLine()
	}
	return decision
}

// waitedTooLong reports whether a task that waits has done so for Policy.MaxWait. If
// the wait cannot be noted, Redis is away, and the wait goes on.
func (p *Pipeline) waitedTooLong(ctx context.Context, d Delivery) bool {
	tooLong, err := p.waited(ctx, d, p.policy.MaxWait)
	if err != nil {
		p.log.storeFailed("waits, and this cannot be noted; the wait goes on", d, err)
	}
	return err == nil && tooLong
}

// retryUncharged is the decision to run a task again as if there had been no attempt.
func (d Delivery) retryUncharged(why Problem, delay time.Duration) Decision {
	return Decision{Action: Retry, Reason: why.Reason, Attempt: d.Attempts, Delay: delay, Error: why.errorLine()}
}

// settle parks a dead task, or requeues a task that asynq would archive. Only then
// may the original leave its queue. If the process dies in between, the original
// runs again, and its letter is already parked or its copy already enqueued.
//
// A letter is parked after the receipt, so that a task whose receipt fails runs again
// and has no letter: it may succeed then. If the process dies after the receipt, or
// if parking fails, the task runs again as well. Should it succeed, the ledger
// replaces dead by the new outcome.
func (p *Pipeline) settle(ctx context.Context, d Delivery, job Job, decision Decision) Decision {
	if d.Replay {
		return decision // a replayed letter stays where it is
	}
	if decision.Action == Park {
		err := p.letters.Park(ctx, letterOf(d, job, decision))
		if err == nil {
			return decision
		}
		p.log.storeFailed("dead, but cannot be parked yet; the task runs again", d, err)
		decision = p.runAgain(d, decision)
	}
	if decision.Action == Retry && !decision.CountsAsAttempt && d.Retries >= d.RetryLimit {
		// asynq would archive the task whatever the handler returns.
		if err := p.requeue(ctx, d, decision.Delay); err != nil {
			p.log.storeFailed("cannot be requeued; asynq archives the task, and recovery makes it a dead letter", d, err)
			return decision
		}
		decision.Requeued = true
	}
	return decision
}

func letterOf(d Delivery, job Job, decision Decision) deadletter.Letter {
	l := deadletter.Letter{
		ID: d.ID, Kind: d.Kind, Queue: d.Queue, Payload: d.Payload,
		Reason: decision.Reason, Error: decision.Error, Attempts: decision.Attempt,
		EnqueuedAt: job.Intent.EnqueuedAt, DeadAt: time.Now(), Batch: job.Intent.BatchRef.Batch, Headers: tracing.Of(d.Headers),
	}
	if job.Task != nil {
		l.UserID, l.Target = job.Task.User(), job.Task.Target()
	}
	return l
}

// runAgain is the decision if the dead letter or the receipt could not be stored.
// The attempt is not charged, and the task runs again.
func (p *Pipeline) runAgain(d Delivery, decision Decision) Decision {
	return Decision{
		Action: Retry, Reason: decision.Reason, Attempt: d.Attempts, Budget: decision.Budget, Error: decision.Error,
		Delay: randDuration(p.policy.ThrottleMin, p.policy.ThrottleMax),
	}
}

// withDeadlineMargin ends an attempt a little before asynq's own deadline. At that
// deadline asynq would free the slot while the call still runs, and would put the
// task back by its own rules.
func withDeadlineMargin(ctx context.Context, now time.Time) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return ctx, func() {}
	}
	left := deadline.Sub(now)
	return context.WithDeadline(ctx, now.Add(left-min(time.Second, left/4)))
}
