package jobs

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	enqueuelocks "github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/koodrive"
	"github.com/kooworker/kooworker/worker/pipeline"
)

var (
	seenAt       = time.UnixMilli(1000).UTC()
	namedRelease = tasks.LockRelease{UserID: "u", LockID: "l@102"}
	staleRelease = tasks.LockRelease{UserID: "u", LockID: "l@102", Evidence: tasks.SweepEvidence{Source: tasks.SourceLedger, ExpiredAt: seenAt}}
)

// outage makes each failure belong to an outage.
var outage = gate.Config{Check: koodriveFails}

func TestRelease_NamedNeedsNoClaim(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for reason, want := range map[tasks.Reason]pipeline.Result{tasks.OK: pipeline.Done(nil), tasks.Gone: pipeline.AlreadyGone()} {
			b := setup(t, gate.Config{})
			b.answer.Reason = reason
			if r := b.do(namedRelease); r != want {
				t.Errorf("%s: %+v; want %+v", reason, r, want)
			}
			b.wantAsked(t, string(reason), "release", "released 0")
		}
		for _, c := range []struct {
			gate   gate.Config
			answer koodrive.Answer
			want   pipeline.ResultKind
		}{
			{gate.Config{}, koodrive.Answer{Reason: tasks.Forbidden}, pipeline.IsFailed},
			{gate.Config{}, koodrive.Answer{Reason: tasks.TimedOut}, pipeline.IsFailed},
			{outage, koodrive.Answer{Reason: tasks.Upstream}, pipeline.IsOutage},
		} {
			b := setup(t, c.gate)
			b.answer = c.answer
			if r := b.do(namedRelease); r.Kind != c.want || r.Reason != c.answer.Reason {
				t.Errorf("%+v: %+v; want kind %d", c.answer, r, c.want)
			}
			b.wantAsked(t, fmt.Sprintf("%+v", c.answer), "release") // no claim, and not released
		}
		b := setup(t, gate.Config{})
		b.gate.Stop()
		if r := b.do(namedRelease); r.Kind != pipeline.IsSnooze || r.Reason != tasks.Throttled {
			t.Errorf("without a permit: %+v; want it snoozed", r)
		}
		b.wantAsked(t, "without a permit")
	})
}

func TestRelease_RenewedOrForgottenSinceSweep(t *testing.T) {
	t.Parallel()
	for _, status := range []enqueuelocks.Status{enqueuelocks.Renewed, enqueuelocks.Forgotten} {
		b := setup(t, gate.Config{})
		b.status = status
		if r, want := b.do(staleRelease), pipeline.Superseded("the lock is not stale any more: "+string(status)); r != want {
			t.Errorf("%s: %+v; want %+v", status, r, want)
		}
		b.wantAsked(t, string(status), "claim")
	}
	b := setup(t, gate.Config{})
	b.claimErr = errAway
	wantSnoozed(t, "the claim fails", b.do(staleRelease))
	b.wantAsked(t, "the claim fails", "claim")
}

// TestRelease_EndOfClaim checks every answer that a call may get.
func TestRelease_EndOfClaim(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const released, unclaimed, left = "released 7", "unclaim 7", ""
		for _, c := range []struct {
			gate   gate.Config
			reason tasks.Reason
			end    string
			kind   pipeline.ResultKind
		}{
			{gate.Config{}, tasks.OK, released, pipeline.IsDone},
			{gate.Config{}, tasks.Gone, released, pipeline.IsAlreadyGone},
			{gate.Config{}, tasks.Invalid, unclaimed, pipeline.IsFailed},
			{gate.Config{}, tasks.Forbidden, unclaimed, pipeline.IsFailed},
			{gate.Config{}, tasks.Unauthorized, unclaimed, pipeline.IsFailed},
			{gate.Config{}, tasks.Misrouted, unclaimed, pipeline.IsOutage},
			{gate.Config{}, tasks.Rejected, unclaimed, pipeline.IsFailed},
			{gate.Config{}, tasks.Throttled, unclaimed, pipeline.IsOutage},
			{gate.Config{}, tasks.Upstream, left, pipeline.IsFailed},
			{gate.Config{}, tasks.TimedOut, left, pipeline.IsFailed},
			{gate.Config{}, tasks.Network, left, pipeline.IsFailed},
			{gate.Config{}, tasks.Protocol, left, pipeline.IsFailed},
			{gate.Config{}, tasks.Panicked, left, pipeline.IsFailed},
			// The answer that opens the breaker is an outage, and the call was made.
			{outage, tasks.Upstream, left, pipeline.IsOutage},
			{outage, tasks.TimedOut, left, pipeline.IsOutage},
			{outage, tasks.Network, left, pipeline.IsOutage},
			{outage, tasks.Unauthorized, unclaimed, pipeline.IsOutage},
		} {
			b := setup(t, c.gate)
			b.answer.Reason = c.reason
			if r := b.do(staleRelease); r.Kind != c.kind {
				t.Errorf("%s: %+v; want kind %d", c.reason, r, c.kind)
			}
			want := []string{"claim", "release"}
			if c.end != left {
				want = append(want, c.end)
			}
			b.wantAsked(t, string(c.reason), want...)
		}
		// Without a permit no call is made, whatever the reason of the refusal.
		b := setup(t, outage)
		b.answer.Reason = tasks.Upstream
		for _, user := range []string{"a", "b", "c"} {
			b.do(tasks.LockRelease{UserID: user, LockID: "l"}) // three failures open the breaker
		}
		b.gate.Stop()
		b.asked = nil
		if r := b.do(staleRelease); r.Kind != pipeline.IsSnooze || r.Reason != tasks.Upstream {
			t.Errorf("without a permit: %+v; want it snoozed", r)
		}
		b.wantAsked(t, "without a permit", "claim", "unclaim 7")
	})
}

func TestRelease_LedgerFailsAfterTheCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, gate.Config{})
		b.endErr = errAway
		begin := time.Now()
		wantSnoozed(t, "released, and not noted", b.do(staleRelease))
		if took := time.Since(begin); took > claimEndTimeout {
			t.Errorf("the job tried to end the claim for %s; want at most %s", took, claimEndTimeout)
		}
		b.answer.Reason = tasks.Forbidden
		if r := b.do(staleRelease); r.Kind != pipeline.IsFailed || r.Reason != tasks.Forbidden {
			t.Errorf("forbidden: %+v; want it failed although Unclaim fails, since the claim expires by itself", r)
		}
	})
}

func TestRelease_CallEndsBeforeItsClaim(t *testing.T) {
	t.Parallel()
	for _, slow := range []time.Duration{0, 20 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			b := setup(t, gate.Config{})
			b.slow = slow
			asked := time.Now() // Redis may have made the claim right now, and answered late
			b.do(staleRelease)
			if left := asked.Add(b.ttl).Sub(b.deadline); b.deadline.IsZero() || left < claimSafetyMargin {
				t.Errorf("if Claim takes %s, the call ends %s before the claim; want at least %s", slow, left, claimSafetyMargin)
			}
		})
	}
}

func TestRelease_ClaimCameTooLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, gate.Config{})
		b.slow = claimMinTTL
		wantSnoozed(t, "a late claim", b.do(staleRelease))
		b.wantAsked(t, "a late claim", "claim", "unclaim 7")
	})
}

func TestClaimTTL_OutlivesItsCalls(t *testing.T) {
	t.Parallel()
	for timeout, want := range map[time.Duration]time.Duration{0: claimMinTTL, time.Minute: 3 * time.Minute, 30 * time.Minute: time.Hour} {
		if ttl := claimTTL(timeout); ttl != want {
			t.Errorf("with a call timeout of %s a claim lives for %s; want %s", timeout, ttl, want)
		}
	}
}

// suspended is the context of a process that was suspended until after its
// deadline, and whose timers have not fired yet.
type suspended struct{ context.Context }

func (suspended) Deadline() (time.Time, bool) { return time.Now().Add(-time.Second), true }

func TestAcquire_NoCallAfterItsDeadline(t *testing.T) {
	t.Parallel()
	b := setup(t, gate.Config{MaxInFlight: 1})
	for range 2 { // the first permit must be given back
		permit, stop := b.acquire(suspended{t.Context()}, gate.Call{Kind: gate.Release})
		if permit != nil || stop == nil {
			t.Fatal("a permit after the deadline; want none")
		}
		wantSnoozed(t, "after the deadline", *stop)
	}
	if status := b.gate.Status(); status.InFlight != 0 || status.Breakers[gate.Release].State != gate.Closed {
		t.Errorf("the gate is %+v; want it closed, and nothing in flight", status)
	}
}
