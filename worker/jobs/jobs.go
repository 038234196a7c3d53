package jobs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/enqueue/batch"
	enqueuelocks "github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/tracing"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/gate/quota"
	"github.com/kooworker/kooworker/worker/koodrive"
	"github.com/kooworker/kooworker/worker/locks"
	"github.com/kooworker/kooworker/worker/pipeline"
	"github.com/kooworker/kooworker/worker/webhook"
)

// Config is what the jobs need.
type Config struct {
	// Redis is the worker's own client.
	Redis redis.UniversalClient
	// KooDrive is called for unbinds and releases, after Gate has admitted the call.
	KooDrive KooDrive
	Gate     *gate.Gate
	// CallTimeout is KooDrive's. A claim of a lock must last longer than its calls.
	CallTimeout time.Duration
	// GuardAfter is the age from which an unbind is guarded: the job first checks
	// whether the user has bound the device again. Default DefaultGuardAfter.
	GuardAfter time.Duration
	// Sources list locks that are not in the lock ledger, at most one of each kind.
	Sources []*locks.External
	// Releases enqueues the releases of a sweep.
	Releases locks.ReleaseEnqueuer
	// LedgerKeep is how long a swept lock is remembered.
	LedgerKeep time.Duration
	// Webhook posts the news of complete batches. Nil if this worker has none.
	Webhook *webhook.Sender
	// TracerProvider makes the spans of waits for permits. Nil: there are none.
	TracerProvider trace.TracerProvider
	Logger         *zap.Logger
}

// DefaultGuardAfter is Config.GuardAfter's default.
const DefaultGuardAfter = 10 * time.Minute

// KooDrive is the API client. *koodrive.Client is one.
type KooDrive interface {
	Unbind(ctx context.Context, userID, deviceID string) koodrive.Answer
	Release(ctx context.Context, userID, lockID string) koodrive.Answer
	Devices(ctx context.Context, userID string) ([]tasks.Device, koodrive.Answer)
}

var _ KooDrive = (*koodrive.Client)(nil)

// LockLedger records the backup locks. *enqueuelocks.Store is one.
type LockLedger interface {
	Claim(ctx context.Context, id tasks.LockID, expiredAt time.Time, ttl time.Duration) (enqueuelocks.Claim, error)
	ClaimExternal(ctx context.Context, id tasks.LockID, expiredAt time.Time, ttl time.Duration) (enqueuelocks.Claim, error)
	Unclaim(ctx context.Context, c enqueuelocks.Claim) error
	Released(ctx context.Context, c enqueuelocks.Claim) error
	ListByUser(ctx context.Context, userID string) ([]enqueuelocks.Lock, error)
}

var _ LockLedger = (*enqueuelocks.Store)(nil)

// Jobs carries tasks out. It is safe for concurrent use.
type Jobs struct {
	koodrive   KooDrive
	gate       *gate.Gate
	guardAfter time.Duration
	claimTTL   time.Duration
	locks      LockLedger
	sources    *lockSources
	children   childEnqueuer
	sweepers   map[tasks.SourceKind]*locks.Sweeper
	ledgerKeep time.Duration
	batches    *batch.Store
	webhook    *webhook.Sender
	tracer     trace.Tracer // nil if there are no spans
	log        *zap.Logger
	now        func() time.Time
}

var _ pipeline.Jobs = (*Jobs)(nil)

// New returns the jobs.
func New(cfg Config) (*Jobs, error) {
	if cfg.GuardAfter < 0 {
		return nil, fmt.Errorf("guard after is %s; want 0 (%s) or more", cfg.GuardAfter, DefaultGuardAfter)
	}
	if cfg.GuardAfter == 0 {
		cfg.GuardAfter = DefaultGuardAfter
	}
	batches, ledger := batch.NewStore(cfg.Redis), enqueuelocks.NewStore(cfg.Redis)
	return &Jobs{
		koodrive: cfg.KooDrive, gate: cfg.Gate, guardAfter: cfg.GuardAfter, claimTTL: claimTTL(cfg.CallTimeout),
		locks: ledger, sources: newLockSources(cfg.Sources, cfg.Logger), children: &children{cfg.Redis, batches, time.Now},
		sweepers: newSweepers(cfg, ledger, batches), ledgerKeep: cfg.LedgerKeep,
		batches: batches, webhook: cfg.Webhook, tracer: tracing.Tracer(cfg.TracerProvider, "worker/jobs"), log: cfg.Logger, now: time.Now,
	}, nil
}

// Do implements pipeline.Jobs.
func (j *Jobs) Do(ctx context.Context, job pipeline.Job) pipeline.Result {
	if job.Calling != nil {
		var err error
		if j, err = j.announcing(ctx, job); err != nil {
			return unavailable(err)
		}
	}
	switch t := job.Task.(type) {
	case tasks.DeviceUnbind:
		return j.unbind(ctx, t, job.Intent)
	case tasks.LockRelease:
		return j.release(ctx, t)
	case tasks.UserOffboard:
		return j.offboard(ctx, t, job.Intent.BatchRef, job.Lane)
	case tasks.LockSweep:
		return j.sweep(ctx, t, job.ID)
	case tasks.BatchWebhook:
		return j.postWebhook(ctx, t)
	default:
		panic(fmt.Sprintf("no job for a %T", t)) // the set of tasks is closed
	}
}

// acquire waits for a permit to call KooDrive. If it gets none, the result says
// why the task must wait.
func (j *Jobs) acquire(ctx context.Context, call gate.Call) (*gate.Permit, *pipeline.Result) {
	var began time.Time
	if j.tracer != nil {
		began = j.now()
	}
	permit, refusal := j.gate.Acquire(ctx, call)
	if j.tracer != nil {
		j.recordPermit(ctx, call, began, permit, refusal)
	}
	if refusal != nil {
		return nil, new(pipeline.Snooze(pipeline.Problem{Reason: refusal.Reason, Detail: refusal.Message, Hint: refusal.Hint, RetryAfter: refusal.Delay}))
	}
	// The client checks the deadline as well, but the gate would count that as a
	// failure of KooDrive.
	if koodrive.DeadlinePassed(ctx) {
		permit.Cancel()
		return nil, new(unavailable(fmt.Errorf("the time for this call was over before it was made: %w", context.DeadlineExceeded)))
	}
	return permit, nil
}

// report reports the answer of a call to the gate, and returns the job's result.
func report(ctx context.Context, permit *gate.Permit, a koodrive.Answer) pipeline.Result {
	if a.RefusedWithoutCall() {
		permit.Cancel() // the answer is not KooDrive's, and does not show that it works
	}
	refusal := permit.Report(ctx, GateAnswer(a))
	problem := pipeline.Problem{Reason: a.Reason, Detail: a.Detail(), Hint: a.Hint(), RetryAfter: a.RetryAfter}
	switch {
	case refusal != nil: // show the answer, which says more than the refusal does
		problem.RetryAfter = refusal.Delay
		return pipeline.Outage(problem)
	case a.Reason == tasks.OK:
		return pipeline.Done(a.Device)
	case a.Reason == tasks.Gone:
		return pipeline.AlreadyGone()
	default:
		return pipeline.Failed(problem)
	}
}

// GateAnswer tells the gate of an answer.
func GateAnswer(a koodrive.Answer) gate.Answer {
	retryAfter := a.RetryAfter
	if a.Reason == tasks.Throttled {
		retryAfter = cmp.Or(retryAfter, a.Limit.Reset)
	}
	return gate.Answer{
		Reason: a.Reason, RetryAfter: retryAfter, NotSent: a.NoServerReached || a.RefusedWithoutCall(),
		Limit: quota.Limit{Calls: a.Limit.Calls, Window: a.Limit.Window, Dimension: a.Limit.Dimension},
	}
}

// devices lists the devices of a user. The list is valid if the result has
// succeeded. It is empty if KooDrive does not know the user.
func (j *Jobs) devices(ctx context.Context, userID string) ([]tasks.Device, pipeline.Result) {
	permit, stop := j.acquire(ctx, gate.Call{Kind: gate.List, User: userID})
	if stop != nil {
		return nil, *stop
	}
	defer permit.Close()
	devices, answer := j.koodrive.Devices(ctx, userID)
	return devices, report(ctx, permit, answer)
}

// unavailable is the result of an error of one of the stores in Redis, or if the time
// for the job is over. If Redis is away, the task waits for as long as that takes. An
// error that would come again every time fails the task. Of any other error nobody
// knows whether it ends, so the wait for it does.
func unavailable(err error) pipeline.Result {
	problem := pipeline.Problem{Reason: tasks.Waiting, Detail: err.Error()}
	switch {
	case isPermanent(err):
		problem.Reason = tasks.Invalid
		return pipeline.Failed(problem)
	case asynqx.IsUnavailable(err):
		problem.RetryAfter = unavailablePause
		return pipeline.Snooze(problem)
	default:
		problem.RetryAfter = otherWorkerPause
		return pipeline.Wait(problem)
	}
}

// isPermanent reports whether an error is about what the task asks for, or about what
// is stored, and would come again every time.
func isPermanent(err error) bool {
	_, wrong := errors.AsType[*tasks.FieldError](err)
	_, full := errors.AsType[*batch.FullError](err)
	_, unreadable := errors.AsType[*enqueuelocks.UnreadableError](err)
	_, number := errors.AsType[*strconv.NumError](err) // a store has something else where a number should be
	return wrong || full || unreadable || number
}

// waitFor is the result of a task that waits for something other than KooDrive and
// Redis. The wait has an end.
func waitFor(detail, hint string, d time.Duration) pipeline.Result {
	return pipeline.Wait(pipeline.Problem{Reason: tasks.Waiting, Detail: detail, Hint: hint, RetryAfter: d})
}

const (
	// unavailablePause is how long a task waits if Redis fails.
	unavailablePause = 2 * time.Second
	// otherWorkerPause is how long a task waits for another worker, which may have
	// the configuration that this one lacks.
	otherWorkerPause = 10 * time.Second
)
