package gate

import (
	"context"
	"fmt"
	"strings"
	"sync"
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

// atOnce makes n calls of distinct users at once, and returns the refusals.
func (b *bundle) atOnce(ctx context.Context, n int) []*refused {
	out := make([]*refused, n)
	var wg sync.WaitGroup
	for i := range out {
		wg.Go(func() { out[i] = b.do(ctx) })
	}
	wg.Wait()
	return out
}

func TestBreaker_WhatOpensIt(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		reason tasks.Reason
		check  tasks.Reason // the answer of the check
		good   bool         // another user's call has succeeded before
		n      int          // tasks that fail
		opens  bool
	}{
		{reason: tasks.Upstream, check: tasks.Upstream, n: someTasks, opens: true},
		{reason: tasks.Upstream, check: tasks.Upstream, n: someTasks - 1},
		{reason: tasks.TimedOut, check: tasks.TimedOut, n: someTasks, opens: true},
		{reason: tasks.Network, check: tasks.Protocol, n: someTasks, opens: true},
		{reason: tasks.Protocol, check: tasks.Network, n: someTasks, opens: true},
		{reason: tasks.Upstream, check: tasks.OK, n: severalUsers - 1},
		{reason: tasks.Upstream, check: tasks.OK, n: manyUsers, opens: true},
		{reason: tasks.Upstream, check: tasks.Forbidden, n: severalUsers - 1},
		{reason: tasks.Unauthorized, check: tasks.Unauthorized, n: someTasks, opens: true},
		{reason: tasks.Unauthorized, check: tasks.OK, n: severalUsers - 1},
		{reason: tasks.Misrouted, check: tasks.Misrouted, n: someTasks, opens: true},
		{reason: tasks.Misrouted, check: tasks.OK, n: someTasks, opens: true},
		{reason: tasks.Rejected, check: tasks.Rejected, n: someTasks, opens: true},
		{reason: tasks.Rejected, check: tasks.OK, n: severalUsers - 1},
		{reason: tasks.Forbidden, check: tasks.Forbidden, n: manyUsers - 1},
		{reason: tasks.Forbidden, check: tasks.Forbidden, good: true, n: someTasks, opens: true},
		{reason: tasks.Forbidden, check: tasks.OK, good: true, n: severalUsers - 1},
		{reason: tasks.Forbidden, check: tasks.OK, good: true, n: manyUsers, opens: true},
		{reason: tasks.Invalid, check: tasks.Invalid, n: manyUsers - 1},
		{reason: tasks.Invalid, check: tasks.Invalid, n: manyUsers, opens: true},
		{reason: tasks.OK, n: 100},
		{reason: tasks.Gone, n: 100},
		{reason: tasks.Panicked, n: 100},
	} {
		t.Run(fmt.Sprint(tc), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := setup(t, Config{})
				if tc.good {
					b.do(t.Context())
					elapse(t.Context(), time.Second)
				}
				b.answer = func(_ time.Time, call Call) Answer {
					if call.Kind == List {
						return Answer{Reason: tc.check}
					}
					return Answer{Reason: tc.reason}
				}
				refusals := b.atOnce(t.Context(), tc.n)
				if s := b.unbinds(); (s.State == Open) != tc.opens || tc.opens && s.Reason != tc.reason {
					t.Errorf("%+v; want open: %t", s, tc.opens)
				}
				for _, r := range refusals {
					// A doubt that nothing decides is not charged.
					theirs := !tc.opens && (tc.check != tc.reason || isVerdict(tc.reason) || classOf(tc.reason) == "")
					if (r == nil) != theirs {
						t.Fatalf("%+v; want it charged: %t", r, theirs)
					}
				}
			})
		})
	}
}

// Several users at once are spared, since it may have been a short outage. If they fail
// again, they are at fault.
func TestDoubt_SeveralUsersAreSparedOnce(t *testing.T) {
	t.Parallel()
	for _, reason := range []tasks.Reason{tasks.Upstream, tasks.Rejected, tasks.Unauthorized} {
		synctest.Test(t, func(t *testing.T) {
			b := setup(t, Config{})
			b.answer = func(_ time.Time, call Call) Answer {
				if call.Kind == List {
					return Answer{Reason: tasks.OK}
				}
				return Answer{Reason: reason}
			}
			for attempt, want := range []bool{true, false} {
				b.users = 0 // the same ones again
				for _, r := range b.atOnce(t.Context(), 3*severalUsers) {
					if spared := r != nil; spared != want {
						t.Fatalf("%s, attempt %d: %+v; want it spared: %t", reason, attempt+1, r, want)
					}
				}
				elapse(t.Context(), time.Minute)
			}
		})
	}
}

// A call that began before a failure shows nothing about the time after it.
func TestDoubt_CallsThatBeganBefore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{})
		slow := make(chan *refused)
		go func() {
			slow <- b.try(t.Context(), b.unbind(), func(ctx context.Context) Answer {
				elapse(ctx, 500*time.Millisecond)
				return Answer{Reason: tasks.OK}
			})
		}()
		synctest.Wait()
		b.answer = always(tasks.Upstream)
		if r := b.do(t.Context()); r == nil || r.Cause != ByDoubt || r.Delay < doubtDelay {
			t.Errorf("%+v; want a refusal by doubt, with a long delay", r)
		}
		if r := <-slow; r != nil {
			t.Errorf("%+v; want the slow call's own answer", r)
		}
	})
}

// A call that began after a failure, and succeeds, decides at once.
func TestDoubt_LaterSuccessDecides(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{})
		bad := b.unbind()
		b.answer = func(_ time.Time, call Call) Answer {
			if call == bad {
				return Answer{Reason: tasks.Upstream}
			}
			return Answer{Reason: tasks.OK}
		}
		start := time.Now()
		time.AfterFunc(100*time.Millisecond, func() { b.do(t.Context()) })
		if r := b.call(t.Context(), bad); r != nil {
			t.Errorf("%+v; want the answer to count", r)
		}
		if took := time.Since(start); took != 100*time.Millisecond+b.latency {
			t.Errorf("decided after %s; want 120ms", took)
		}
		// The user is at fault now: no doubt any more.
		start = time.Now()
		if r := b.call(t.Context(), bad); r != nil || time.Since(start) != b.latency {
			t.Errorf("%+v after %s; want the answer to count at once", r, time.Since(start))
		}
	})
}

// The success of another worker does not show whose fault a failure is: only this
// worker may have a bad credential. But it brings the next probe forward.
func TestBreaker_SuccessOfAnotherWorker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fleet := newFakeFleet()
		fleet.lag, fleet.live, fleet.was = 500*time.Millisecond, 2, 2
		a, b := setup(t, Config{Fleet: fleet, MaxWait: time.Hour}), setup(t, Config{Fleet: fleet})
		b.users = 1000
		a.answer = always(tasks.Upstream)
		time.AfterFunc(100*time.Millisecond, func() { b.do(t.Context()) })
		if r := a.do(t.Context()); r == nil || r.Cause != ByDoubt {
			t.Errorf("%+v; want a refusal by doubt, since this worker's check failed", r)
		}
		a.breakUnbinds(t)
		a.load(t.Context(), 20, 30*time.Minute) // the delays grow
		a.answer = always(tasks.OK)
		b.do(t.Context())
		start := time.Now()
		a.load(t.Context(), 1, 4*time.Second)
		if s := a.unbinds(); s.State != Closed {
			t.Errorf("%+v %s after the other worker's success; want closed by a probe", s, time.Since(start))
		}
	})
}

// Each of many workers sees a few failures only.
func TestBreaker_FleetOpensTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fleet := newFakeFleet()
		fleet.lag, fleet.live, fleet.was = 500*time.Millisecond, 30, 30
		var gates []*bundle
		for i := range 30 {
			b := setup(t, Config{Fleet: fleet})
			b.users = 100 * i
			b.answer = func(_ time.Time, call Call) Answer {
				if call.Kind == List {
					return Answer{Reason: tasks.OK}
				}
				return Answer{Reason: tasks.Upstream}
			}
			gates = append(gates, b)
		}
		var wg sync.WaitGroup
		for _, b := range gates {
			for range 2 {
				wg.Go(func() {
					if r := b.do(t.Context()); r == nil {
						t.Error("a call was charged; want all sixty to be the outage's")
					}
				})
			}
		}
		wg.Wait()
		for i, b := range gates {
			if s := b.unbinds(); s.State != Open {
				t.Errorf("worker %d: %+v; want open", i, s)
			}
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
		if s := b.unbinds(); s.State != Closed {
			t.Errorf("calls that were canceled on this side opened the breaker: %+v; want closed", s)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		b.atOnce(ctx, manyUsers) // a deadline that passes is the API's fault
		if s := b.unbinds(); s.State == Closed {
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
		late := make(chan *refused, 2*manyUsers)
		for range cap(late) {
			go func() {
				late <- b.try(t.Context(), b.unbind(), func(ctx context.Context) Answer {
					elapse(ctx, 30*time.Second)
					return Answer{Reason: tasks.TimedOut}
				})
			}()
		}
		synctest.Wait()
		b.breakUnbinds(t)
		b.answer = always(tasks.OK)
		b.do(t.Context())
		for range cap(late) {
			if r := <-late; r == nil || !r.called || r.Cause != ByBreaker || r.Reason != tasks.TimedOut {
				t.Fatalf("%+v; want a refusal after the call, by the breaker", r)
			}
		}
		if s := b.unbinds(); s.State != Closed {
			t.Errorf("answers from the outage opened the breaker again: %+v; want closed", s)
		}
	})
}

func TestBreaker_FromOpenToClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{})
		b.breakUnbinds(t)
		opened := time.Now()
		b.answer = always(tasks.Network)
		b.do(t.Context())
		b.answer = always(tasks.Forbidden) // KooDrive itself has looked at the task
		b.do(t.Context())
		want := []string{
			"unbind: closed open upstream", "unbind: open half-open upstream", "unbind: half-open open upstream",
			"unbind: open half-open network", "unbind: half-open open network", "unbind: open closed network",
		}
		if diff := cmp.Diff(want, b.changes); diff != "" {
			t.Error(diff)
		}
		if s := b.unbinds(); s.State != Closed || s.Reason != "" || b.Status().Probes != 2 || !s.Since.After(opened) {
			t.Errorf("%+v; want closed after 2 probes", s)
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
			b.breakUnbinds(t)
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
			if len(probes) < 20 || len(probes)*live >= 1800 {
				t.Errorf("%d workers: %d probes each in 30m; want at least 20, and less than one a second together", live, len(probes))
			}
		})
	}
}

// A probe should tell something new: another user goes before one whose call has
// just failed.
func TestBreaker_ProbesTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{MaxWait: time.Hour})
		b.breakUnbinds(t)
		var probed []string
		b.answer = func(_ time.Time, call Call) Answer {
			probed = append(probed, call.User)
			return Answer{Reason: tasks.Upstream}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		var wg sync.WaitGroup
		for _, user := range []string{"a", "b", "c"} {
			wg.Go(func() {
				for ctx.Err() == nil {
					b.call(ctx, Call{Kind: Unbind, User: user})
				}
			})
			synctest.Wait()
		}
		wg.Wait()
		if len(probed) < 6 || strings.Join(probed[:6], "") != "abcabc" {
			t.Errorf("probed %q; want the users in turn", probed)
		}
	})
}

// An API that fails again as soon as it gets load is still in the same outage.
func TestBreaker_RelapseKeepsDelays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{})
		mend := func() {
			b.answer = always(tasks.OK)
			for b.unbinds().State != Closed {
				b.do(t.Context())
			}
		}
		delay := func() time.Duration {
			b.breakUnbinds(t)
			return time.Until(b.breakers[Unbind].nextProbeAt)
		}
		delay()
		b.load(t.Context(), 5, 10*time.Minute)
		mend()
		if d := delay(); d < 30*time.Second {
			t.Errorf("the first delay after a relapse is %s; want 30s or more", d)
		}
		mend()
		elapse(t.Context(), time.Minute)
		if d := delay(); d > 1500*time.Millisecond {
			t.Errorf("the first delay of a new outage is %s; want about 1s", d)
		}
	})
}

// Failures of some users among the successes of others are theirs, however many.
func TestBreaker_MixedAnswersDoNotOpenIt(t *testing.T) {
	t.Parallel()
	for _, reason := range []tasks.Reason{tasks.Upstream, tasks.Unauthorized, tasks.Forbidden, tasks.Rejected} {
		synctest.Test(t, func(t *testing.T) {
			b := setup(t, Config{})
			n := 0
			b.answer = func(time.Time, Call) Answer {
				if n++; n%3 > 0 {
					return Answer{Reason: reason}
				}
				return Answer{Reason: tasks.OK}
			}
			b.load(t.Context(), 64, 10*time.Second)
			if len(b.changes) > 0 {
				t.Errorf("%s for two calls of three: %v; want closed all the time", reason, b.changes)
			}
		})
	}
}

// Memory must not grow with the number of users.
func TestBreaker_MemoryIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{})
		b.breakUnbinds(t)
		br := b.breakers[Unbind]
		b.Gate.mu.Lock()
		defer b.Gate.mu.Unlock()
		for i := range 10 * maxAtFault {
			call := Call{Kind: Unbind, User: fmt.Sprint(i), Target: fmt.Sprint(i)}
			br.fail(time.Now(), call, tasks.Upstream)
			br.atFault.Add(userClass{call.User, tasks.Upstream}, time.Now())
			call.User = "one"
			br.fail(time.Now(), call, tasks.Rejected)
		}
		users, targets := len(br.rows[tasks.Upstream].users), len(br.rows[tasks.Rejected].users["one"].targets)
		if users > maxUsers || targets > maxTargets || br.atFault.Len() > maxAtFault {
			t.Errorf("%d users, %d targets, %d at fault; want at most %d, %d, %d", users, targets, br.atFault.Len(), maxUsers, maxTargets, maxAtFault)
		}
	})
}

// The success that ends an outage blames nobody for it, whatever the answers were.
func TestBreaker_EndOfOutageBlamesNobody(t *testing.T) {
	t.Parallel()
	for range 20 { // the classes come in any order
		synctest.Test(t, func(t *testing.T) {
			b := setup(t, Config{MaxWait: time.Hour})
			b.breakUnbinds(t)
			for _, reason := range []tasks.Reason{tasks.Rejected, tasks.Unauthorized, tasks.Misrouted, tasks.OK} {
				b.answer = always(reason)
				b.do(t.Context())
			}
			if n := b.breakers[Unbind].atFault.Len(); b.unbinds().State != Closed || n != 0 {
				t.Errorf("%+v, %d users at fault; want closed, and none", b.unbinds(), n)
			}
		})
	}
}
