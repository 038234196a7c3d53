package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/koodrive"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// fakeClaims is a ledger of locks that remembers what it was asked, and the API
// behind it.
type fakeClaims struct {
	Locks    // the rest is for sweeps
	refused  string
	ticket   int64
	claimErr error
	endErr   error
	slow     time.Duration // a claim takes so long
	held     time.Duration
	answer   pipeline.Answer
	deadline time.Time // of the call
	said     []string
}

func (f *fakeClaims) Claim(_ context.Context, _ tasks.LockRelease, hold time.Duration) (ticket int64, refused string, err error) {
	f.said = append(f.said, "claim")
	f.held = hold
	time.Sleep(f.slow) //nolint:forbidigo // in a synctest bubble
	return f.ticket, f.refused, f.claimErr
}

func (f *fakeClaims) End(_ context.Context, _ tasks.LockRelease, ticket int64, gone bool) error {
	said := fmt.Sprintf("end %d %t", ticket, gone)
	if !slices.Contains(f.said, said) { // it is tried again
		f.said = append(f.said, said)
	}
	return f.endErr
}

func (f *fakeClaims) Do(ctx context.Context, _ tasks.Task) pipeline.Answer {
	f.said = append(f.said, "call")
	f.deadline, _ = ctx.Deadline()
	return f.answer
}

func (f *fakeClaims) Devices(context.Context, string) ([]koodrive.Device, pipeline.Answer) {
	return nil, pipeline.Answer{}
}

func (f *fakeClaims) do(t tasks.Task) pipeline.Answer {
	return newKeeper(f, f, newListed(nil, zap.NewNop()), koodrive.Config{}).Do(context.Background(), t)
}

func (f *fakeClaims) want(t *testing.T, what string, said ...string) {
	t.Helper()
	if !slices.Equal(f.said, said) {
		t.Errorf("%s: %q; want %q", what, f.said, said)
	}
}

var (
	namedRelease = tasks.LockRelease{UserID: "u", LockID: "l@102"}
	staleRelease = tasks.LockRelease{UserID: "u", LockID: "l@102", Evidence: tasks.SweepEvidence{Source: tasks.SourceLedger, ExpiredAt: time.UnixMilli(1000)}}
)

func TestALockThatSomebodyNamedIsReleasedWithoutAClaim(t *testing.T) {
	t.Parallel()
	for _, reason := range []tasks.Reason{tasks.OK, tasks.Gone} {
		f := &fakeClaims{answer: pipeline.Answer{Reason: reason}, ticket: 7}
		if a := f.do(namedRelease); a != f.answer {
			t.Errorf("%s: %+v", reason, a)
		}
		f.want(t, string(reason), "call", "end 0 true")
	}
	for _, answer := range []pipeline.Answer{
		{Reason: tasks.Forbidden}, {Reason: tasks.TimedOut}, {Reason: tasks.Upstream, Held: true}, {Reason: tasks.Throttled, Held: true, Uncalled: true},
	} {
		f := &fakeClaims{answer: answer}
		if a := f.do(namedRelease); a != answer {
			t.Errorf("%+v became %+v", answer, a)
		}
		if slices.Contains(f.said, "claim") || slices.Contains(f.said, "end 0 true") {
			t.Errorf("%+v: %q; want no claim, and not gone", answer, f.said)
		}
	}
}

func TestOtherTasksAreNotTheKeepersBusiness(t *testing.T) {
	t.Parallel()
	f := &fakeClaims{answer: pipeline.Answer{Reason: tasks.OK}}
	if a := f.do(tasks.DeviceUnbind{UserID: "u", DeviceID: "d"}); a != f.answer {
		t.Errorf("%+v", a)
	}
	f.want(t, "an unbind", "call")
}

func TestWithoutALedgerOnlySweptLocksWait(t *testing.T) {
	t.Parallel()
	f := &fakeClaims{answer: pipeline.Answer{Reason: tasks.OK}}
	k := newKeeper(f, nil, newListed(nil, zap.NewNop()), koodrive.Config{})
	if a := k.Do(t.Context(), staleRelease); a.Reason != tasks.Waiting || !a.Held || !a.Uncalled || a.RetryAfter <= 0 {
		t.Errorf("%+v; want it to wait, uncharged", a)
	}
	f.want(t, "swept")
	if a := k.Do(t.Context(), namedRelease); a != f.answer {
		t.Errorf("%+v", a)
	}
	f.want(t, "named", "call")
}

func TestALockThatIsNotStaleAnyMoreStays(t *testing.T) {
	t.Parallel()
	for _, why := range []string{"renewed", "forgotten"} {
		f := &fakeClaims{refused: why}
		if a := f.do(staleRelease); a.Reason != tasks.OK || !a.Superseded || a.Message != "the lock is not stale any more: "+why {
			t.Errorf("%s: %+v; want superseded", why, a)
		}
		f.want(t, why, "claim")
	}
	f := &fakeClaims{claimErr: errors.New("Redis is away")}
	if a := f.do(staleRelease); a.Reason != tasks.Waiting || !a.Held || !a.Uncalled {
		t.Errorf("%+v; want it to wait, uncharged", a)
	}
	f.want(t, "no answer", "claim")
}

// TestWhatBecomesOfAClaim has every answer that a call may get.
func TestWhatBecomesOfAClaim(t *testing.T) {
	t.Parallel()
	const gone, back, left = "end 7 true", "end 7 false", ""
	for _, c := range []struct {
		answer pipeline.Answer
		end    string
	}{
		{pipeline.Answer{Reason: tasks.OK}, gone},
		{pipeline.Answer{Reason: tasks.Gone}, gone},
		{pipeline.Answer{Reason: tasks.Invalid}, back},
		{pipeline.Answer{Reason: tasks.Forbidden}, back},
		{pipeline.Answer{Reason: tasks.Unauthorized}, back},
		{pipeline.Answer{Reason: tasks.Throttled}, back},
		{pipeline.Answer{Reason: tasks.Misrouted}, back},
		{pipeline.Answer{Reason: tasks.Rejected}, back},
		{pipeline.Answer{Reason: tasks.Throttled, Held: true}, back},
		{pipeline.Answer{Reason: tasks.Upstream, Held: true, Uncalled: true}, back}, // the gate's own word
		{pipeline.Answer{Reason: tasks.TimedOut, Uncalled: true}, back},
		{pipeline.Answer{Reason: tasks.Upstream}, left},
		{pipeline.Answer{Reason: tasks.TimedOut}, left},
		{pipeline.Answer{Reason: tasks.Network}, left},
		{pipeline.Answer{Reason: tasks.Protocol}, left},
		{pipeline.Answer{Reason: tasks.Panicked}, left},
		// The answer that closes the gate is held back, and the call was made.
		{pipeline.Answer{Reason: tasks.Upstream, Held: true}, left},
		{pipeline.Answer{Reason: tasks.TimedOut, Held: true}, left},
		{pipeline.Answer{Reason: tasks.Network, Held: true}, left},
	} {
		f := &fakeClaims{ticket: 7, answer: c.answer}
		if a := f.do(staleRelease); a != c.answer {
			t.Errorf("%+v became %+v", c.answer, a)
		}
		said := []string{"claim", "call"}
		if c.end != left {
			said = append(said, c.end)
		}
		f.want(t, fmt.Sprintf("%+v", c.answer), said...)
	}
}

func TestAReleaseThatTheLedgerDoesNotKnowRunsAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeClaims{ticket: 7, endErr: errors.New("Redis is away"), answer: pipeline.Answer{Reason: tasks.OK}}
		begin := time.Now()
		if a := f.do(staleRelease); a.Reason != tasks.Waiting || !a.Held || !a.Uncalled || a.RetryAfter <= 0 {
			t.Errorf("%+v; want it to wait, uncharged", a)
		}
		if took := time.Since(begin); took > settleTimeout {
			t.Errorf("it has tried for %s; want at most %s", took, settleTimeout)
		}
		f.answer = pipeline.Answer{Reason: tasks.Forbidden}
		if a := f.do(staleRelease); a != f.answer {
			t.Errorf("%+v; a claim that cannot be given back runs out", a)
		}
	})
}

func TestACallIsOverBeforeItsClaimIs(t *testing.T) {
	t.Parallel()
	for _, slow := range []time.Duration{0, 20 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			f := &fakeClaims{ticket: 7, slow: slow, answer: pipeline.Answer{Reason: tasks.OK}}
			asked := time.Now() // Redis may have taken the claim right now, and answered late
			f.do(staleRelease)
			if left := asked.Add(f.held).Sub(f.deadline); f.deadline.IsZero() || left < claimMargin {
				t.Errorf("after a claim of %s the call ends %s before its claim; want %s", slow, left, claimMargin)
			}
		})
	}
}

func TestAClaimThatCameTooLateIsNotUsed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeClaims{ticket: 7, slow: claimHold, answer: pipeline.Answer{Reason: tasks.OK}}
		if a := f.do(staleRelease); a.Reason != tasks.Waiting || !a.Held || !a.Uncalled {
			t.Errorf("%+v; want it to wait, uncharged", a)
		}
		f.want(t, "late", "claim", "end 7 false")
	})
}

func TestAClaimIsLongerThanItsCalls(t *testing.T) {
	t.Parallel()
	for timeout, want := range map[time.Duration]time.Duration{0: claimHold, time.Minute: 3 * time.Minute, 30 * time.Minute: time.Hour} {
		if k := newKeeper(nil, nil, nil, koodrive.Config{CallTimeout: timeout}); k.hold != want {
			t.Errorf("with calls of %s a claim is for %s; want %s", timeout, k.hold, want)
		}
	}
}
