package gate

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

func throttled(wait time.Duration) func(time.Time, Call) Answer {
	return func(time.Time, Call) Answer { return Answer{Reason: tasks.Throttled, RetryAfter: wait} }
}

// A 429 is about its own call. The others go on.
func TestThrottle_OneTaskWaits(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ told, least, most time.Duration }{
		{0, 3 * time.Second, 35 * time.Second},
		{7 * time.Second, 8 * time.Second, 37 * time.Second},
		{24 * time.Hour, throttleCap, throttleCap + 30*time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := setup(t, Config{Fleet: newFakeFleet()})
			b.answer = throttled(tc.told)
			r := b.do(t.Context())
			if r == nil || !r.called || r.Cause != ByThrottle || r.Reason != tasks.Throttled || r.Delay < tc.least || r.Delay > tc.most {
				t.Errorf("told to wait for %s: %+v; want a refusal after the call, with a delay of %s to %s", tc.told, r, tc.least, tc.most)
			}
			b.answer = always(tasks.OK)
			start := time.Now()
			for range 10 {
				if r := b.do(t.Context()); r != nil {
					t.Errorf("another task was refused: %+v; want a call", r)
				}
			}
			if took := time.Since(start); took > time.Second {
				t.Errorf("ten calls of others took %s; want them to go on", took)
			}
			if s := b.Status(); s.OverQuota != 1 || s.Refused[ByThrottle] != 1 {
				t.Errorf("%+v; want one call over the quota", s)
			}
		})
	}
}

// If every call is refused, one call a second shows whether that is over, whatever
// Retry-After says: it may be about its own user, or about nothing.
func TestThrottle_NothingPasses(t *testing.T) {
	t.Parallel()
	for _, told := range []time.Duration{0, 20 * time.Second, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			fleet := newFakeFleet()
			a, b := setup(t, Config{Fleet: fleet}), setup(t, Config{Fleet: fleet})
			end := time.Now().Add(35 * time.Second)
			a.answer = func(now time.Time, _ Call) Answer {
				if now.After(end) {
					return Answer{Reason: tasks.OK}
				}
				return Answer{Reason: tasks.Throttled, RetryAfter: told}
			}
			b.answer = a.answer
			start := time.Now()
			var wg sync.WaitGroup
			wg.Go(func() { a.load(t.Context(), 16, 60*time.Second) })
			wg.Go(func() { b.load(t.Context(), 16, 60*time.Second) })
			wg.Wait()
			calls := func(from, to time.Duration) int {
				return a.between(start.Add(from), start.Add(to)) + b.between(start.Add(from), start.Add(to))
			}
			t.Logf("told %s: %d calls in the first 5 s, %d to the end of the window, %d in the 10 s after it",
				told, calls(0, 5*time.Second), calls(5*time.Second, 35*time.Second), calls(36*time.Second, 46*time.Second))
			if n := calls(5*time.Second, 35*time.Second); n < 25 || n > 33 {
				t.Errorf("told %s: %d calls in 30 s; want one a second", told, n)
			}
			if a.unbinds().State != Closed || calls(36*time.Second, 46*time.Second) < 10 {
				t.Error("calls do not go on after the window has opened")
			}
		})
	}
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

// A user who is refused at any rate is called once in a while. The user's tasks make
// way for the others.
func TestThrottle_OneUserIsHeldBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{Fleet: newFakeFleet()})
		bad := 0
		b.answer = func(_ time.Time, call Call) Answer {
			if call.User == "bad" {
				bad++
				return Answer{Reason: tasks.Throttled, RetryAfter: 30 * time.Second}
			}
			return Answer{Reason: tasks.OK}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(1, uint64(i))) //nolint:gosec // a test
				for ctx.Err() == nil {
					call := b.unbind()
					if r.IntN(10) == 0 {
						call.User = "bad"
					}
					if r := b.call(ctx, call); r != nil && !r.called {
						if call.User != "bad" && ctx.Err() == nil {
							t.Errorf("another user's task was refused: %+v; want its call", r)
						}
						elapse(ctx, time.Millisecond)
					}
				}
			})
		}
		wg.Wait()
		if bad > 25 {
			t.Errorf("%d calls for the user that is always refused; want few", bad)
		}
		if n, most := len(b.calls), 16*50*60; n < most*90/100 {
			t.Errorf("%d calls; want nearly %d", n, most)
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

// At a low rate few tasks wait, as many as are called soon.
func TestHolds_AtALowRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{Rate: 5, MaxWait: time.Hour})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		most := 0
		for range 64 {
			go func() {
				for ctx.Err() == nil {
					if b.Holds(Unbind) {
						elapse(ctx, 50*time.Millisecond)
						continue
					}
					most = max(most, b.Status().Waiting)
					b.do(ctx)
				}
			}()
		}
		<-ctx.Done()
		synctest.Wait()
		if n := len(b.calls); most > 32 || n < 290 {
			t.Errorf("%d tasks waited, %d calls; want at most half of the 64, and 300", most, n)
		}
	})
}

// A worker that starts knows the quota, and does not begin with a flood.
func TestQuota_OutlastsARestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fleet := newFakeFleet()
		q := &bucketQuota{rate: 100, room: 10}
		answer := func(now time.Time, call Call) Answer {
			if ok, a := q.allows(now, call.User); !ok {
				a.Reason = tasks.Throttled
				return a
			}
			return Answer{Reason: tasks.OK}
		}
		first := setup(t, Config{Fleet: fleet})
		first.answer = answer
		first.load(t.Context(), 64, 20*time.Second)
		second := setup(t, Config{Fleet: fleet})
		second.answer = answer
		second.load(t.Context(), 64, 5*time.Second)
		if s, n := second.Status(), len(second.calls); s.OverQuota > 20 || n < 450 {
			t.Errorf("%d of %d calls were refused after the restart; want few of 500", s.OverQuota, n)
		}
	})
}

// While Redis is away, a worker goes on with the share that it had.
func TestQuota_OutlastsAnOutageOfRedis(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fleet := newFakeFleet()
		a, b := setup(t, Config{Fleet: fleet, Rate: 100}), setup(t, Config{Fleet: fleet, Rate: 100})
		start := time.Now()
		time.AfterFunc(10*time.Second, func() { fleet.mu.Lock(); fleet.away = true; fleet.mu.Unlock() })
		time.AfterFunc(40*time.Second, func() { fleet.mu.Lock(); fleet.away = false; fleet.mu.Unlock() })
		var wg sync.WaitGroup
		wg.Go(func() { a.load(t.Context(), 64, time.Minute) })
		wg.Go(func() { b.load(t.Context(), 64, time.Minute) })
		wg.Wait()
		for _, at := range []int{5, 20, 30, 50} {
			from := start.Add(time.Duration(at) * time.Second)
			if n := a.between(from, from.Add(5*time.Second)) + b.between(from, from.Add(5*time.Second)); n < 425 || n > 550 {
				t.Errorf("%d calls in the 5 s from %d s on; want about 500", n, at)
			}
		}
	})
}
