package gate

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/tasks"
)

func TestState_Words(t *testing.T) {
	t.Parallel()
	if words := fmt.Sprint(Closed, HalfOpen, Open); words != "closed half-open open" {
		t.Errorf("the states are %s; want closed half-open open", words)
	}
}

func TestBreaker_WhatOpensIt(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		reasons []tasks.Reason
		after   int // number of calls until it opens; 0: never
	}{
		{reasons: []tasks.Reason{tasks.Upstream}, after: 10},
		{reasons: []tasks.Reason{tasks.TimedOut}, after: 10},
		{reasons: []tasks.Reason{tasks.Network}, after: 10},
		{reasons: []tasks.Reason{tasks.Protocol}, after: 10},
		{reasons: []tasks.Reason{tasks.Upstream, tasks.Network, tasks.TimedOut, tasks.Unauthorized}, after: 10},
		{reasons: []tasks.Reason{tasks.OK, tasks.Upstream}, after: 20},
		{reasons: []tasks.Reason{tasks.OK, tasks.OK, tasks.Upstream}},
		{reasons: []tasks.Reason{tasks.Unauthorized}, after: 3},
		{reasons: []tasks.Reason{tasks.Misrouted}, after: 3},
		{reasons: []tasks.Reason{tasks.Unauthorized, tasks.Unauthorized, tasks.OK, tasks.OK, tasks.OK}},
		{reasons: []tasks.Reason{tasks.Unauthorized, tasks.Unauthorized, tasks.Panicked}, after: 4},
		{reasons: []tasks.Reason{tasks.OK}},
		{reasons: []tasks.Reason{tasks.Gone}},
		{reasons: []tasks.Reason{tasks.Invalid}},
		{reasons: []tasks.Reason{tasks.Forbidden}},
		{reasons: []tasks.Reason{tasks.Rejected}},
		{reasons: []tasks.Reason{tasks.Panicked}},
	} {
		t.Run(fmt.Sprint(tc.reasons), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := setup(t, Config{})
				n := 0
				for n < 100 && b.Status().State == Closed {
					b.fail(t, 1, tc.reasons[n%len(tc.reasons)])
					n++
				}
				switch s := b.Status(); {
				case tc.after == 0 && s.State != Closed:
					t.Errorf("opened after %d calls, %+v; want never", n, s)
				case tc.after > 0 && (n != tc.after || s.Reason != tc.reasons[(n-1)%len(tc.reasons)]):
					t.Errorf("%s, %s, after %d calls; want open after %d", s.State, s.Reason, n, tc.after)
				}
			})
		})
	}
}

// gobreaker alone dates a call by its start, and would never count these.
func TestBreaker_TimeoutsLongerThanWindowOpenIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{})
		b.latency, b.answer = 30*time.Second, always(tasks.TimedOut)
		b.load(t.Context(), 10, 31*time.Second)
		if s := b.Status(); s.State == Closed || s.Reason != tasks.TimedOut {
			t.Errorf("%s, %s; want open for timeout", s.State, s.Reason)
		}
	})
}

// A task that always makes KooDrive fail must run out of attempts. If it could
// open the breaker, none of them would be charged.
func TestBreaker_OneBadTaskDoesNotOpenIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{})
		for attempt := range 12 {
			if r := b.fail(t, 1, tasks.Upstream); r != nil {
				t.Fatalf("attempt %d was not charged: %+v; want every attempt charged", attempt, r)
			}
			elapse(t.Context(), time.Second<<attempt) // half of the policy's delay, its shortest
		}
	})
}

func TestBreaker_CanceledCallsDoNotOpenIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{})
		b.latency = time.Minute
		for range 50 {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Millisecond, cancel)
			if r := b.do(ctx); r != nil {
				t.Fatalf("%+v; want the call's own answer", r)
			}
		}
		if s := b.Status(); s.State != Closed {
			t.Errorf("calls that were canceled on this side opened the breaker: %+v; want closed", s)
		}
		for range 10 { // a deadline that passes is the API's fault
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			b.do(ctx)
			cancel()
		}
		if s := b.Status(); s.State == Closed {
			t.Error("calls that took too long left the breaker closed; want open")
		}
	})
}

// A call that was in flight when the breaker opened belongs to the outage, even
// if it ends after the outage. It does not open the breaker again.
func TestReport_LateAnswersAreNotCharged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{})
		late := make(chan *refused, 50)
		for range 50 {
			go func() {
				late <- b.try(t.Context(), func(ctx context.Context) Answer {
					elapse(ctx, 30*time.Second)
					return Answer{Reason: tasks.TimedOut}
				})
			}()
		}
		synctest.Wait()
		b.fail(t, 10, tasks.Upstream)
		b.answer = always(tasks.OK)
		for b.Status().State != Closed {
			b.do(t.Context())
		}
		for range 50 {
			if r := <-late; r == nil || !r.called || r.Cause != ByBreaker || r.Reason != tasks.TimedOut {
				t.Fatalf("%+v; want a refusal after the call, by the breaker", r)
			}
		}
		if s := b.Status(); s.State != Closed {
			t.Errorf("answers from the outage opened the breaker again: %+v; want closed", s)
		}
	})
}

func TestBreaker_FromOpenToClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{})
		if r := b.fail(t, 10, tasks.Upstream); r == nil || !r.called || r.Reason != tasks.Upstream {
			t.Errorf("the call that opened the breaker: %+v; want it uncharged", r)
		}
		opened := time.Now()
		b.fail(t, 1, tasks.Network)
		b.answer = always(tasks.Forbidden)
		for range 3 {
			if r := b.do(t.Context()); r != nil {
				t.Fatalf("a good probe was refused: %+v; want its answer to count", r)
			}
		}
		want := []string{
			"closed open upstream", "open half-open upstream", "half-open open network",
			"open half-open network", "half-open closed network",
		}
		if diff := cmp.Diff(want, b.changes); diff != "" {
			t.Error(diff)
		}
		s := b.Status()
		if s.State != Closed || s.Reason != "" || s.Probes != 4 || !s.Since.After(opened) {
			t.Errorf("%+v; want closed after 4 probes", s)
		}
	})
}

func TestBreaker_ProbesArePaced(t *testing.T) {
	t.Parallel()
	for _, live := range []int{1, 5, 50} {
		synctest.Test(t, func(t *testing.T) {
			fleet := newFakeFleet()
			fleet.live = live
			b := setup(t, Config{Fleet: fleet})
			b.fail(t, 10, tasks.Upstream)
			opened, before := time.Now(), len(b.calls)
			b.load(t.Context(), 20, 30*time.Minute)
			probes := b.calls[before:]
			// Delays double from a second to a minute, give or take a half, and
			// are at least one second for each worker.
			for i, at := range probes {
				delay := at.Sub(opened)
				nominal := min(time.Second<<min(i, 10), time.Minute)
				low, high := max(nominal/2, time.Duration(live)*time.Second), max(nominal*3/2, time.Duration(live)*time.Second)
				if delay < low || delay > high+time.Second {
					t.Errorf("%d workers, probe %d after %s; want %s to %s", live, i, delay, low, high)
				}
				opened = at.Add(b.latency)
			}
			if b.most > 10 || len(probes) < 20 || len(probes)*live >= 1800 {
				t.Errorf("%d workers: %d probes each in 30m; want at least 20, and less than one a second together", live, len(probes))
			}
		})
	}
}

// A refused credential opens the breaker if it affects every call, not if one
// user's credential is refused now and then.
func TestBreaker_RareUnauthorizedDoesNotOpenIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{})
		for range 50 {
			b.fail(t, 1, tasks.Unauthorized)
			elapse(t.Context(), 6*time.Second)
		}
		if s := b.Status(); s.State != Closed {
			t.Errorf("%+v; want closed", s)
		}
	})
}

// After half an hour the delays between probes are long. They must not slow down
// the return to closed.
func TestBreaker_ClosesQuicklyAfterLongOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{})
		b.fail(t, 10, tasks.Upstream)
		b.load(t.Context(), 5, 30*time.Minute)
		b.answer = always(tasks.OK)
		for b.Status().State != HalfOpen {
			b.do(t.Context())
		}
		start := time.Now()
		b.do(t.Context())
		b.do(t.Context())
		if took, s := time.Since(start), b.Status(); s.State != Closed || took > 3*time.Second {
			t.Errorf("%s, %s after the first good probe; want closed within 3s", s.State, took)
		}
	})
}

// An API that fails again as soon as it gets load is still in the same outage.
func TestBreaker_RelapseKeepsDelays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{})
		b.fail(t, 10, tasks.Upstream)
		relapse := func() time.Duration {
			b.load(t.Context(), 5, 10*time.Minute)
			b.answer = always(tasks.OK)
			for b.Status().State != Closed {
				b.do(t.Context())
			}
			b.fail(t, 10, tasks.Upstream)
			return time.Until(b.breaker.nextProbeAt)
		}
		if delay := relapse(); delay < 30*time.Second {
			t.Errorf("the first delay after a relapse is %s; want 30s or more", delay)
		}
		b.answer = always(tasks.OK)
		for b.Status().State != Closed {
			b.do(t.Context())
		}
		elapse(t.Context(), time.Minute)
		b.fail(t, 10, tasks.Upstream)
		if delay := time.Until(b.breaker.nextProbeAt); delay > 1500*time.Millisecond {
			t.Errorf("the first delay of a new outage is %s; want about 1s", delay)
		}
	})
}

// Tasks that failed in one bad moment come back together, and may fail together
// once more while KooDrive works. That must not stop all other tasks.
func TestBreaker_ShortRowDoesNotOpenIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{MinFailureTime: 5 * time.Second})
		for range 1000 {
			b.do(t.Context())
		}
		b.fail(t, 100, tasks.Upstream) // 100 in a row, in two seconds
		if state := b.Status().State; state != Closed {
			t.Errorf("%s after a short row of failures; want closed", state)
		}
		elapse(t.Context(), 5*time.Second)
		b.fail(t, 1, tasks.Upstream)
		if state := b.Status().State; state != Open {
			t.Errorf("%s after five seconds of failures only; want open", state)
		}
	})
}
