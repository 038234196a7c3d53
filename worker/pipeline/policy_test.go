package pipeline

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"pgregory.net/rapid"

	"github.com/kooworker/kooworker/tasks"
)

const noLimit = tasks.MaxRetry

func TestBackoffDelay_StaysWithinItsBounds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := Backoff{
			First:  time.Duration(rapid.Int64Range(int64(time.Second), int64(time.Minute)).Draw(t, "first")),
			Factor: rapid.Float64Range(1, 10).Draw(t, "factor"),
			Jitter: rapid.Float64Range(0, 0.99).Draw(t, "jitter"),
			Cap:    time.Duration(rapid.Int64Range(int64(time.Minute), int64(24*time.Hour)).Draw(t, "cap")),
		}
		if err := b.validate(); err != nil {
			t.Fatal(err)
		}
		attempt := rapid.IntRange(1, 500).Draw(t, "attempt")
		want := float64(b.First)
		for range attempt - 1 {
			if want *= b.Factor; want > float64(b.Cap) {
				want = float64(b.Cap)
				break
			}
		}
		got, slack := float64(b.Delay(attempt)), 2.0
		if low, high := want*(1-b.Jitter)-slack, want*(1+b.Jitter)+slack; got < low || got > high {
			t.Errorf("attempt %d: %s; want %s to %s", attempt, time.Duration(got), time.Duration(low), time.Duration(high))
		}
	})
}

func TestBackoffDelay_DefaultsDouble(t *testing.T) {
	t.Parallel()
	b := DefaultBackoff()
	b.Jitter = 0
	for attempt, want := range map[int]time.Duration{
		1: 2 * time.Second, 2: 4 * time.Second, 3: 8 * time.Second, 9: 512 * time.Second, 10: 15 * time.Minute, 400: 15 * time.Minute,
	} {
		if got := b.Delay(attempt); got != want {
			t.Errorf("after attempt %d: %s; want %s", attempt, got, want)
		}
	}
}

func TestDecide_EachReason(t *testing.T) {
	t.Parallel()
	p := DefaultPolicy()
	for _, tc := range []struct {
		reason   tasks.Reason
		attempts int
		limit    int
		action   Action
		outcome  tasks.Outcome
		charged  bool
	}{
		{tasks.OK, 0, noLimit, Complete, tasks.Succeeded, false},
		{tasks.Gone, 11, noLimit, Complete, tasks.AlreadyGone, false},
		{tasks.Upstream, 0, noLimit, Retry, "", true},
		{tasks.Upstream, 10, noLimit, Retry, "", true},
		{tasks.Upstream, 11, noLimit, Park, tasks.Dead, true},
		{tasks.TimedOut, 11, noLimit, Park, tasks.Dead, true},
		{tasks.Network, 3, 3, Park, tasks.Dead, true},
		{tasks.Network, 2, 3, Retry, "", true},
		{tasks.Protocol, 0, 0, Park, tasks.Dead, true},
		{tasks.Rejected, 3, noLimit, Retry, "", true},
		{tasks.Rejected, 4, noLimit, Park, tasks.Dead, true},
		{tasks.Invalid, 0, noLimit, Park, tasks.Dead, true},
		{tasks.Forbidden, 0, noLimit, Park, tasks.Dead, true},
		{tasks.Throttled, 400, 0, Retry, "", false},
		{tasks.Unauthorized, 0, noLimit, Retry, "", true},
		{tasks.Misrouted, 11, noLimit, Park, tasks.Dead, true},
		{tasks.Undecodable, 0, noLimit, Park, tasks.Dead, false},
		{tasks.UnknownKind, 0, noLimit, Park, tasks.Dead, false},
		{tasks.Expired, 7, noLimit, Park, tasks.Dead, false},
		{tasks.Panicked, 11, noLimit, Park, tasks.Dead, true},
	} {
		v := p.Decide(tc.reason, tc.attempts, tc.limit, 0)
		if v.Action != tc.action || v.Outcome != tc.outcome || v.CountsAsAttempt != tc.charged {
			t.Errorf("%s after %d of %d: %+v; want action %d, outcome %q, charged %t", tc.reason, tc.attempts, tc.limit, v, tc.action, tc.outcome, tc.charged)
		}
		if wantAttempt := tc.attempts + map[bool]int{true: 1}[tc.charged]; v.Attempt != wantAttempt {
			t.Errorf("%s: attempt %d; want %d", tc.reason, v.Attempt, wantAttempt)
		}
		if (v.Action == Retry) != (v.Delay > 0) {
			t.Errorf("%s: action %d with the delay %s; want a delay for a retry only", tc.reason, v.Action, v.Delay)
		}
	}
}

// Whatever the answers, a task is dead after at most its budget of charged attempts,
// and never reaches asynq's limit.
func TestDecide_EveryTaskEndsWithinItsBudget(t *testing.T) {
	t.Parallel()
	reasons := tasks.Reasons()
	rapid.Check(t, func(t *rapid.T) {
		p := DefaultPolicy()
		p.MaxAttempts = rapid.IntRange(1, maxAttempts).Draw(t, "max")
		limit := rapid.IntRange(0, noLimit).Draw(t, "limit")
		attempts := 0
		for range 2 * maxAttempts {
			reason := rapid.SampledFrom(reasons).Draw(t, "reason")
			v := p.Decide(reason, attempts, limit, 0)
			if v.Attempt > min(p.MaxAttempts, limit+1) {
				t.Fatalf("attempt %d; want at most %d", v.Attempt, min(p.MaxAttempts, limit+1))
			}
			if v.Action != Retry {
				return
			}
			if v.CountsAsAttempt && attempts >= limit {
				t.Fatalf("another retry after %d of %d; asynq would archive the task", attempts, limit)
			}
			attempts = v.Attempt
		}
	})
}

func TestDecide_WaitsAsLongAsTheAnswerSays(t *testing.T) {
	t.Parallel()
	p := DefaultPolicy()
	const wait = 7 * time.Minute
	for _, reason := range []tasks.Reason{tasks.Throttled, tasks.Upstream, tasks.Unauthorized} {
		if v := p.Decide(reason, 0, noLimit, wait); v.Delay < wait {
			t.Errorf("%s: waits %s; want at least %s", reason, v.Delay, wait)
		}
	}
	for range 100 {
		if v := p.Decide(tasks.Throttled, 0, noLimit, 0); v.Delay < 2*time.Second || v.Delay > 5*time.Second {
			t.Fatalf("throttled without a time: waits %s; want 2 s to 5 s", v.Delay)
		}
	}
	if v := p.Decide(tasks.Throttled, 0, noLimit, time.Second); v.Delay != time.Second {
		t.Errorf("throttled for 1 s: waits %s; want 1s", v.Delay)
	}
}

func TestPolicyValidate_RefusesBadValues(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*Policy){
		"no attempts":      func(p *Policy) { p.MaxAttempts = 0 },
		"too many":         func(p *Policy) { p.MaxAttempts = 1000 },
		"unknown reason":   func(p *Policy) { p.Attempts = map[tasks.Reason]int{"bored": 1} },
		"zero for reason":  func(p *Policy) { p.Attempts = map[tasks.Reason]int{tasks.Rejected: 0} },
		"sub-second first": func(p *Policy) { p.Backoff.First = 100 * time.Millisecond },
		"shrinking":        func(p *Policy) { p.Backoff.Factor = 0.5 },
		"full jitter":      func(p *Policy) { p.Backoff.Jitter = 1 },
		"cap below first":  func(p *Policy) { p.Backoff.Cap = time.Second },
		"throttle turned":  func(p *Policy) { p.ThrottleMax = time.Second },
		"no pause":         func(p *Policy) { p.Pause = 0 },
		"short wait":       func(p *Policy) { p.MaxWait = time.Second },
	} {
		p := DefaultPolicy()
		spoil(&p)
		if err := p.validate(); err == nil {
			t.Errorf("%s: accepted; want an error", name)
		}
	}
}

// asynq stores whole seconds, and rounds down. Even so no retry may be early.
func TestRetryDelay_IsNeverEarly(t *testing.T) {
	t.Parallel()
	for _, delay := range []time.Duration{0, time.Millisecond, time.Second, 1500 * time.Millisecond, time.Minute} {
		before := time.Now()
		got := RetryDelay(0, &retryError{delay: delay}, asynq.NewTask("", nil))
		stored := time.Unix(time.Now().Add(got).Unix(), 0)
		if stored.Before(before.Add(delay)) {
			t.Errorf("%s becomes %s; want no less", delay, stored.Sub(before))
		}
		if late := stored.Sub(before) - delay; late > 1100*time.Millisecond {
			t.Errorf("%s becomes %s, %s late; want about a second at most", delay, stored.Sub(before), late)
		}
	}
}

func TestIsFailure_OnlyChargedErrorsCount(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{asynq.ErrLeaseExpired, false},
		{context.Canceled, false},
		{context.DeadlineExceeded, true},
		{fmt.Errorf("%w", &retryError{text: "timeout"}), false},
		{&retryError{charged: true}, true},
		{&retryError{}, false},
	} {
		if got := IsFailure(tc.err); got != tc.want {
			t.Errorf("IsFailure(%v) = %t; want %t", tc.err, got, tc.want)
		}
	}
}
