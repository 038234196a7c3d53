package gate

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// busiest returns the most calls of all bundles that began within any window.
func busiest(window time.Duration, bundles ...*bundle) int {
	var all []time.Time
	for _, b := range bundles {
		all = append(all, b.calls...)
	}
	return most(all, window)
}

func TestRate_OneWorker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{Rate: 60})
		b.load(t.Context(), 64, time.Minute)
		if n := len(b.calls); n < 3590 || n > 3600 {
			t.Errorf("%d calls in a minute; want 3600", n)
		}
	})
}

func TestRate_BelowOneCallPerSecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{Rate: 0.05})
		b.load(t.Context(), 5, 10*time.Minute)
		if n := len(b.calls); n < 29 || n > 30 {
			t.Errorf("%d calls in ten minutes; want 30", n)
		}
	})
}

// Three workers at a rate of 60 make 54 to 66 calls a second. So do the two that
// are left after one was killed.
func TestRate_OneOfThreeWorkersDies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fleet := newFakeFleet()
		fleet.live = 3
		var gates []*bundle
		for range 3 {
			gates = append(gates, setup(t, Config{Rate: 60, Fleet: fleet}))
		}
		start := time.Now()
		rate := func(from, to time.Duration) float64 {
			n := 0
			for _, g := range gates {
				n += g.between(start.Add(from), start.Add(to))
			}
			return float64(n) / (to - from).Seconds()
		}
		victim, kill := context.WithCancel(t.Context())
		time.AfterFunc(65*time.Second, kill)
		time.AfterFunc(65*time.Second+5500*time.Millisecond, func() { fleet.set(2) })
		var wg sync.WaitGroup
		for i, g := range gates {
			ctx := t.Context()
			if i == 0 {
				ctx = victim
			}
			wg.Go(func() { g.load(ctx, 30, 3*time.Minute) })
		}
		wg.Wait()
		before, around := rate(5*time.Second, 65*time.Second), rate(65*time.Second, 125*time.Second)
		after := rate(75*time.Second, 135*time.Second)
		t.Logf("calls a second: %.1f before, %.1f in the minute from the kill on, %.1f later; at most %d in any second",
			before, around, after, busiest(time.Second, gates...))
		for _, r := range []float64{before, around, after} {
			if r < 54 || r > 66 {
				t.Errorf("%.1f calls a second; want 54 to 66", r)
			}
		}
	})
}

// Workers come and go, and the others learn of it half a second later. In no
// second are there more calls than the rate, and the tenth of it that comes late.
func TestRate_FleetChangesMakeNoBurst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fleet := newFakeFleet()
		fleet.lag = 500 * time.Millisecond
		var (
			gates []*bundle
			stops []context.CancelFunc
			wg    sync.WaitGroup
		)
		for range 6 { // workers come
			g := setup(t, Config{Rate: 60, Fleet: fleet})
			fleet.set(len(gates) + 1)
			ctx, stop := context.WithCancel(t.Context())
			gates, stops = append(gates, g), append(stops, stop)
			wg.Go(func() { g.load(ctx, 30, time.Hour) })
			elapse(t.Context(), 10*time.Second)
		}
		for i, stop := range stops { // and go, and one comes back for a moment
			stop()
			fleet.set(max(5-i, 1))
			elapse(t.Context(), 600*time.Millisecond)
			fleet.set(max(6-i, 1))
			elapse(t.Context(), 300*time.Millisecond)
			fleet.set(max(5-i, 1))
			elapse(t.Context(), 10*time.Second)
		}
		wg.Wait()
		n := busiest(time.Second, gates...)
		t.Logf("at most %d calls in any second", n)
		if n > 66 {
			t.Errorf("%d calls in a second; want at most 66", n)
		}
	})
}

func TestRamp_DoublesEverySecond(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T, b *bundle){
		"after an outage": func(t *testing.T, b *bundle) {
			t.Helper()
			b.breakUnbinds(t)
			b.answer = always(tasks.OK)
			for b.unbinds().State != Closed {
				b.do(t.Context())
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := setup(t, Config{})
				open(t, b)
				start := time.Now()
				b.load(t.Context(), 64, 20*time.Second)
				// Sixty-four callers of 20 ms make 3,200 calls a second.
				for second, want := range []int{10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3200, 3200, 3200} {
					from := start.Add(time.Duration(second) * time.Second)
					if n := b.between(from, from.Add(time.Second)); n < want*8/10-1 || n > want*11/10+1 {
						t.Errorf("second %d: %d calls; want about %d", second, n, want)
					}
				}
				if limit := b.Status().Limit; limit != 0 {
					t.Errorf("limit %g after the ramp; want none", limit)
				}
			})
		})
	}
}

// If an API comes back and answers slowly, calls must not pile up.
func TestRamp_BoundsCallsInFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{})
		b.breakUnbinds(t)
		b.answer = always(tasks.OK)
		for b.unbinds().State != Closed {
			b.do(t.Context())
		}
		b.latency, b.most = 10*time.Second, 0
		start := time.Now()
		var early int
		time.AfterFunc(900*time.Millisecond, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			early = b.most
		})
		b.load(t.Context(), 1000, 3900*time.Millisecond)
		if n := b.between(start, start.Add(4*time.Second)); early > 10 || early < 5 || b.most > 80 || n < 60 {
			t.Errorf("%d in flight in the first second, %d in the fourth, %d calls; want nearly 10 and 80 in flight, and at least 60 calls", early, b.most, n)
		}
	})
}

// A ramp ends even if no call is made meanwhile.
func TestRamp_EndsWhileIdle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{})
		b.breakUnbinds(t)
		b.answer = always(tasks.OK)
		for b.unbinds().State != Closed {
			b.do(t.Context())
		}
		elapse(t.Context(), time.Hour)
		if limit := b.Status().Limit; limit != 0 {
			t.Errorf("limit %g an hour later; want none", limit)
		}
	})
}
