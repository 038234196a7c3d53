package gate

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

func throttled(wait time.Duration) func(time.Time, Call) Answer {
	return func(time.Time, Call) Answer { return Answer{Reason: tasks.Throttled, RetryAfter: wait} }
}

func TestThrottle_PausesFleet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fleet := newFakeFleet()
		a, b := setup(t, Config{Fleet: fleet}), setup(t, Config{Fleet: fleet})
		a.answer = throttled(7 * time.Second)
		r := a.do(t.Context())
		paused := time.Now()
		if r == nil || !r.called || r.Cause != ByThrottle || r.Reason != tasks.Throttled || r.Delay < 8*time.Second || r.Delay > 37*time.Second {
			t.Errorf("%+v; want a refusal after the call, with a delay of 7s and 1s to 30s", r)
		}
		if left := b.Status().PausedFor; left != 7*time.Second {
			t.Errorf("the other worker pauses for %s; want 7s", left)
		}
		if r := b.do(t.Context()); r != nil {
			t.Errorf("refused: %+v; want the task to wait until the pause is over", r)
		}
		if waited := b.calls[0].Sub(paused); waited < 7*time.Second || waited > 7200*time.Millisecond {
			t.Errorf("the call came after %s; want 7s", waited)
		}
	})
}

func TestThrottle_LongPauseRefusesAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fleet := newFakeFleet()
		b := setup(t, Config{Fleet: fleet})
		waiting := make(chan *refused)
		b.latency = 2 * time.Second
		b.answer = throttled(time.Minute)
		go b.do(t.Context())
		elapse(t.Context(), 3*time.Second)
		start := time.Now()
		go func() { waiting <- b.do(t.Context()) }()
		r := <-waiting
		if r == nil || r.called || r.Cause != ByThrottle || time.Since(start) != 0 {
			t.Errorf("%+v after %s; want a refusal by throttle, before the call, at once", r, time.Since(start))
		}
		if r.Delay < 59*time.Second || r.Delay > 90*time.Second {
			t.Errorf("delay %s; want 59s and 1s to 30s", r.Delay)
		}
	})
}

// If sixty-four calls in flight are all throttled, the fleet is told once.
func TestThrottle_FleetIsToldOnce(t *testing.T) {
	t.Parallel()
	for _, wait := range []time.Duration{0, 5 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			fleet := newFakeFleet()
			b := setup(t, Config{Fleet: fleet})
			b.answer = throttled(wait)
			b.load(t.Context(), 64, time.Second)
			if len(fleet.pauses) != 1 || fleet.pauses[0] < 2*time.Second || fleet.pauses[0] > 5*time.Second {
				t.Errorf("Retry-After %s: the fleet was told to pause for %v; want once, for 2s to 5s", wait, fleet.pauses)
			}
			if s := b.Status(); s.Calls != 64 || b.unbinds().State != Closed {
				t.Errorf("%+v; want 64 throttled answers, and a closed breaker", s)
			}
		})
	}
}

func TestThrottle_PauseIsCapped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{})
		b.answer = throttled(24 * time.Hour)
		b.do(t.Context())
		if left := b.Status().PausedFor; left != 15*time.Minute {
			t.Errorf("paused for %s; want 15m", left)
		}
	})
}

// A probe that is throttled proves nothing, and another probe must follow.
func TestThrottle_ProbeProvesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{})
		b.breakUnbinds(t)
		b.answer = throttled(2 * time.Second)
		b.do(t.Context())
		if s := b.unbinds(); s.State != Open {
			t.Errorf("%s after a throttled probe; want open", s.State)
		}
		b.answer = always(tasks.OK)
		if r := b.do(t.Context()); r != nil {
			t.Errorf("a probe was refused: %+v; want its answer to count", r)
		}
		if s := b.unbinds(); s.State != Closed {
			t.Errorf("%s after a good probe; want closed", s.State)
		}
	})
}

// While calls are held, more tasks would only wait and be put back.
func TestHolds_WhileCallsAreHeld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{})
		holds := func(what string, want bool) {
			t.Helper()
			if got := b.Holds(Unbind); got != want {
				t.Errorf("%s: holds %t; want %t", what, got, want)
			}
		}
		holds("at the start", false)
		b.answer = throttled(time.Minute)
		b.do(t.Context())
		holds("throttled", true)
		elapse(t.Context(), 55*time.Second)
		holds("shortly before the end of the pause", false)
		elapse(t.Context(), 5*time.Second)
		holds("after the pause", false)
		b.breakUnbinds(t)
		holds("broken, and no task waits for a probe", false)
		for range probersWaiting {
			go b.do(t.Context())
		}
		synctest.Wait()
		holds("broken, and tasks wait", true)
		if b.Holds(Release) {
			t.Error("releases are held while only unbinds fail; want them free")
		}
	})
}
