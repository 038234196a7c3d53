package jobs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	enqueuelocks "github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/koodrive"
	"github.com/kooworker/kooworker/worker/pipeline"
)

func TestMain(m *testing.M) {
	// go-redis continues to dial for a second after its client was closed.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

// bundle holds the jobs. It is also their KooDrive and their lock ledger, and
// records the calls to both.
type bundle struct {
	*Jobs
	answer   koodrive.Answer // of every call
	devices  []tasks.Device  // what Devices lists
	deadline time.Time       // of the last call
	panics   bool            // instead of an answer

	status   enqueuelocks.Status // of a claim
	token    int64
	slow     time.Duration // how long Claim takes
	ttl      time.Duration // of the last claim
	claimErr error
	endErr   error

	held    []string // the locks of the user
	heldErr error

	asked []string
	logs  *observer.ObservedLogs
}

var (
	_ KooDrive   = (*bundle)(nil)
	_ LockLedger = (*bundle)(nil)
)

// koodriveWorks and koodriveFails are answers of the gate's check. They make a
// failure count as its task's, or as an outage.
func koodriveWorks(context.Context, string) gate.Answer { return gate.Answer{Reason: tasks.OK} }
func koodriveFails(context.Context, string) gate.Answer { return gate.Answer{Reason: tasks.Upstream} }

func setup(t *testing.T, cfg gate.Config, sources ...lockSource) *bundle {
	t.Helper()
	if cfg.Check == nil {
		cfg.Check = koodriveWorks
	}
	g, err := gate.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Fleet != nil {
		ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
		done := make(chan struct{})
		go func() { g.Pace(ctx); close(done) }()
		t.Cleanup(func() { stop(); <-done })
	}
	core, logs := observer.New(zapcore.WarnLevel)
	b := &bundle{answer: koodrive.Answer{Reason: tasks.OK}, status: enqueuelocks.Claimed, token: 7, logs: logs}
	known := newLockSources(nil, zap.New(core))
	for _, s := range sources {
		known.known[s.Kind()] = s
	}
	b.Jobs = &Jobs{
		koodrive: b, gate: g, guardAfter: DefaultGuardAfter, claimTTL: claimTTL(0), locks: b, sources: known,
		log: zap.New(core), now: time.Now,
	}
	return b
}

func (b *bundle) note(format string, args ...any) {
	b.asked = append(b.asked, fmt.Sprintf(format, args...))
}

func (b *bundle) call(ctx context.Context, what string) koodrive.Answer {
	b.note("%s", what)
	b.deadline, _ = ctx.Deadline()
	if b.panics {
		panic("the client's own code failed")
	}
	return b.answer
}

func (b *bundle) Unbind(ctx context.Context, _, deviceID string) koodrive.Answer {
	return b.call(ctx, "unbind "+deviceID)
}

func (b *bundle) Release(ctx context.Context, _, _ string) koodrive.Answer {
	return b.call(ctx, "release")
}

func (b *bundle) Devices(ctx context.Context, _ string) ([]tasks.Device, koodrive.Answer) {
	a := b.call(ctx, "devices")
	return slices.Clone(b.devices), a
}

func (b *bundle) Claim(_ context.Context, id tasks.LockID, expiredAt time.Time, ttl time.Duration) (enqueuelocks.Claim, error) {
	return b.claimAs("claim", id, expiredAt, ttl)
}

func (b *bundle) ClaimExternal(_ context.Context, id tasks.LockID, expiredAt time.Time, ttl time.Duration) (enqueuelocks.Claim, error) {
	return b.claimAs("claim external", id, expiredAt, ttl)
}

func (b *bundle) claimAs(what string, id tasks.LockID, expiredAt time.Time, ttl time.Duration) (enqueuelocks.Claim, error) {
	b.note("%s", what)
	b.ttl = ttl
	time.Sleep(b.slow) //nolint:forbidigo // in a synctest bubble, or for no time
	c := enqueuelocks.Claim{ID: id, Status: b.status, Seen: expiredAt}
	if b.status == enqueuelocks.Claimed {
		c.FencingToken = b.token
	}
	return c, b.claimErr
}

func (b *bundle) Unclaim(_ context.Context, c enqueuelocks.Claim) error {
	b.noteOnce("unclaim %d", c.FencingToken)
	return b.endErr
}

func (b *bundle) Released(_ context.Context, c enqueuelocks.Claim) error {
	b.noteOnce("released %d", c.FencingToken)
	return b.endErr
}

// noteOnce is note for a call that is repeated after an error.
func (b *bundle) noteOnce(format string, args ...any) {
	if !slices.Contains(b.asked, fmt.Sprintf(format, args...)) {
		b.note(format, args...)
	}
}

func (b *bundle) ListByUser(_ context.Context, userID string) ([]enqueuelocks.Lock, error) {
	b.note("locks")
	var held []enqueuelocks.Lock
	for _, id := range b.held {
		held = append(held, enqueuelocks.Lock{Lock: tasks.Lock{UserID: userID, LockID: id}})
	}
	return held, b.heldErr
}

// do runs the job of a task that was enqueued just now.
func (b *bundle) do(task tasks.Task) pipeline.Result {
	return b.Do(context.Background(), pipeline.Job{ID: "id", Task: task, Intent: tasks.Intent{EnqueuedAt: b.now()}})
}

// wantAsked compares the calls since its last call.
func (b *bundle) wantAsked(t *testing.T, what string, want ...string) {
	t.Helper()
	if !slices.Equal(b.asked, want) {
		t.Errorf("%s: asked %q; want %q", what, b.asked, want)
	}
	b.asked = nil
}

// errAway is the error of a Redis that is away.
var errAway error = &net.OpError{Op: "dial", Err: errors.New("no Redis")}

// wantSnoozed wants the result of a task that waits uncharged for Redis, or for its
// children.
func wantSnoozed(t *testing.T, what string, r pipeline.Result) {
	t.Helper()
	if r.Kind != pipeline.IsSnooze || r.Reason != tasks.Waiting || r.RetryAfter <= 0 {
		t.Errorf("%s: %+v; want it to wait, uncharged", what, r)
	}
}

// wantWaiting wants the result of a task that waits uncharged for something that may
// never come.
func wantWaiting(t *testing.T, what string, r pipeline.Result) {
	t.Helper()
	if r.Kind != pipeline.IsWait || r.Reason != tasks.Waiting || r.RetryAfter <= 0 {
		t.Errorf("%s: %+v; want it to wait, uncharged, and not for ever", what, r)
	}
}
