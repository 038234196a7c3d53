package gate

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/kooworker/kooworker/tasks"
)

// most returns the largest number of times within any window.
func most(all []time.Time, window time.Duration) int {
	slices.SortFunc(all, time.Time.Compare)
	n, from := 0, 0
	for i, at := range all {
		for at.Sub(all[from]) >= window {
			from++
		}
		n = max(n, i-from+1)
	}
	return n
}

func durations(low, high time.Duration) *rapid.Generator[time.Duration] {
	return rapid.Map(rapid.Int64Range(int64(low), int64(high)), func(n int64) time.Duration { return time.Duration(n) })
}

// weather is how an API answers over time: each reason for as long as it lasts.
type weather struct {
	reasons []tasks.Reason
	lasts   []time.Duration
}

func drawWeather(t *rapid.T) weather {
	n := rapid.IntRange(1, 6).Draw(t, "spells")
	var w weather
	for range n {
		w.reasons = append(w.reasons, rapid.SampledFrom([]tasks.Reason{
			tasks.OK, tasks.OK, tasks.OK, tasks.Gone, tasks.Forbidden, tasks.Throttled, tasks.Upstream, tasks.TimedOut,
			tasks.Network, tasks.Protocol, tasks.Unauthorized, tasks.Misrouted, tasks.Panicked,
		}).Draw(t, "reason"))
		w.lasts = append(w.lasts, durations(time.Second, 5*time.Minute).Draw(t, "lasts"))
	}
	return w
}

func (w weather) from(start time.Time) func(time.Time, Call) Answer {
	return func(now time.Time, _ Call) Answer {
		age := now.Sub(start)
		for i, last := range w.lasts {
			if age < last {
				return Answer{Reason: w.reasons[i]}
			}
			age -= last
		}
		return Answer{Reason: tasks.OK}
	}
}

func (w weather) total() (d time.Duration) {
	for _, last := range w.lasts {
		d += last
	}
	return d
}

// Whatever the answers and the number of workers are, no window contains more
// calls than the rate allows.
func TestRate_NeverExceeded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		perSecond := rapid.Float64Range(0.2, 100).Draw(rt, "rate")
		latency := durations(0, 100*time.Millisecond).Draw(rt, "latency")
		sky := drawWeather(rt)
		sizes := rapid.SliceOfN(rapid.IntRange(1, 9), 1, 6).Draw(rt, "sizes")
		var calls []time.Time
		synctest.Test(t, func(t *testing.T) {
			fleet := newFakeFleet()
			b := setup(t, Config{Rate: perSecond, Fleet: fleet})
			b.answer, b.latency = sky.from(time.Now()), latency
			for i, size := range sizes {
				time.AfterFunc(time.Duration(i)*10*time.Second, func() { fleet.set(size) })
			}
			b.load(t.Context(), 8, min(sky.total(), 2*time.Minute))
			calls = b.calls
		})
		for _, window := range []time.Duration{100 * time.Millisecond, time.Second, 10 * time.Second, time.Minute} {
			bucket := 1 + perSecond*(tokenLife+CatchUp).Seconds()
			if n, limit := most(calls, window), perSecond*window.Seconds()+bucket; float64(n) > limit+1e-6 {
				rt.Errorf("%d calls within %s at a rate of %g; want at most %.1f", n, window, perSecond, limit)
			}
		}
	})
}

// Whatever the answers and the latency are: while the breaker is not closed there
// is one probe at a time, and never a second one within a second.
func TestBreaker_OneProbeAtATime(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		latency := durations(100*time.Millisecond, 40*time.Second).Draw(rt, "latency")
		callers := rapid.IntRange(1, 20).Draw(rt, "callers")
		sky := drawWeather(rt)
		var (
			probes   []time.Time
			together int
			charged  int
		)
		synctest.Test(t, func(t *testing.T) {
			b := setup(t, Config{})
			b.answer = sky.from(time.Now())
			under := 0
			ctx, cancel := context.WithTimeout(t.Context(), sky.total())
			defer cancel()
			for range callers {
				go func() {
					for ctx.Err() == nil {
						probe, bad := false, false
						r := b.try(ctx, b.unbind(), func(ctx context.Context) Answer {
							b.mu.Lock()
							answer := b.answer(time.Now(), Call{})
							if probe = b.unbinds().State != Closed; probe {
								probes = append(probes, time.Now())
								under++
								together = max(together, under)
							}
							b.mu.Unlock()
							elapse(ctx, latency)
							b.mu.Lock()
							defer b.mu.Unlock()
							if probe {
								under--
							}
							bad = isFailure(answer.Reason) && !isVerdict(answer.Reason)
							return answer
						})
						b.mu.Lock()
						if probe && bad && r == nil && ctx.Err() == nil {
							charged++
						}
						b.mu.Unlock()
					}
				}()
			}
			<-ctx.Done()
			synctest.Wait()
		})
		if n := most(probes, time.Second); n > 1 || together > 1 {
			rt.Errorf("%d probes within a second, %d at once; want one", n, together)
		}
		if charged != 0 {
			rt.Errorf("%d bad probes were charged; want none", charged)
		}
	})
}
