package gate

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

func throttled(wait time.Duration) func(time.Time) Answer {
	return func(time.Time) Answer { return Answer{Reason: tasks.Throttled, RetryAfter: wait} }
}

func TestThrottleClosesTheFleet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		crew := newCrew()
		a, b := setup(t, Config{Fleet: crew}), setup(t, Config{Fleet: crew})
		a.answer = throttled(7 * time.Second)
		r := a.do(t.Context())
		closed := time.Now()
		if r == nil || !r.Called || r.Cause != ByThrottle || r.Reason != tasks.Throttled || r.Delay < 8*time.Second || r.Delay > 37*time.Second {
			t.Errorf("%+v; want to come back in 7s and 1s to 30s", r)
		}
		if left := b.Status().ClosedFor; left != 7*time.Second {
			t.Errorf("the other worker is closed for %s; want 7s", left)
		}
		if r := b.do(t.Context()); r != nil {
			t.Errorf("%+v; want the rest to be sat out", r)
		}
		if waited := b.calls[0].Sub(closed); waited < 7*time.Second || waited > 7200*time.Millisecond {
			t.Errorf("waited %s; want 7s", waited)
		}
	})
}

func TestLongClosureIsNotSatOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		crew := newCrew()
		b := setup(t, Config{Fleet: crew})
		waiting := make(chan *Refusal)
		b.latency = 2 * time.Second
		b.answer = throttled(time.Minute)
		go b.do(t.Context())
		elapse(t.Context(), 3*time.Second)
		start := time.Now()
		go func() { waiting <- b.do(t.Context()) }()
		r := <-waiting
		if r == nil || r.Called || r.Cause != ByThrottle || time.Since(start) != 0 {
			t.Errorf("%+v after %s; want a refusal at once", r, time.Since(start))
		}
		if r.Delay < 59*time.Second || r.Delay > 90*time.Second {
			t.Errorf("delay %s; want 59s and 1s to 30s", r.Delay)
		}
	})
}

// Sixty-four calls in flight that are throttled alike close the fleet once.
func TestThrottleIsToldOnce(t *testing.T) {
	t.Parallel()
	for _, wait := range []time.Duration{0, 5 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			crew := newCrew()
			b := setup(t, Config{Fleet: crew})
			b.answer = throttled(wait)
			b.load(t.Context(), 64, time.Second)
			if len(crew.closes) != 1 || crew.closes[0] < 2*time.Second || crew.closes[0] > 5*time.Second {
				t.Errorf("Retry-After %s: closed for %v; want once, for 2s to 5s", wait, crew.closes)
			}
			if s := b.Status(); s.Throttled != 64 || s.State != Closed {
				t.Errorf("%+v; want 64 throttled answers that leave the breaker alone", s)
			}
		})
	}
}

func TestThrottleHasACap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{})
		b.answer = throttled(24 * time.Hour)
		b.do(t.Context())
		if left := b.Status().ClosedFor; left != 15*time.Minute {
			t.Errorf("closed for %s; want 15m", left)
		}
	})
}

// A probe that is throttled proves nothing, and must not be the last.
func TestThrottledProbe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{})
		b.fail(t, 10, tasks.Upstream)
		b.answer = throttled(2 * time.Second)
		b.do(t.Context())
		if s := b.Status(); s.State != HalfOpen {
			t.Errorf("%s; want half-open still", s.State)
		}
		b.answer = always(tasks.OK)
		for range 3 {
			if r := b.do(t.Context()); r != nil {
				t.Errorf("%+v; want a probe", r)
			}
		}
		if s := b.Status(); s.State != Closed {
			t.Errorf("%s; want closed", s.State)
		}
	})
}
