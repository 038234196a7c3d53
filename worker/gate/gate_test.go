package gate

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/kooworker/kooworker/tasks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bundle is a gate before an API with set answers, in a bubble of synctest: time
// passes only while every goroutine waits.
type bundle struct {
	*Gate

	mu       sync.Mutex
	answer   func(now time.Time) Answer // of the API
	latency  time.Duration              // of the API
	calls    []time.Time                // when they began
	inFlight int
	most     int // most calls in flight at a time
	changes  []string
}

func setup(t *testing.T, cfg Config) *bundle {
	t.Helper()
	b := &bundle{answer: always(tasks.OK), latency: 20 * time.Millisecond}
	cfg.MinFailureTime = cmp.Or(cfg.MinFailureTime, time.Nanosecond) // ten in a row are enough
	cfg.OnChange = func(from, to State, reason tasks.Reason) {
		b.changes = append(b.changes, from.String()+" "+to.String()+" "+string(reason))
	}
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.Gate = g
	t.Cleanup(g.Stop)
	return b
}

func always(reason tasks.Reason) func(time.Time) Answer {
	return func(time.Time) Answer { return Answer{Reason: reason} }
}

// api is a call of the API.
func (b *bundle) api(ctx context.Context) Answer {
	b.mu.Lock()
	now := time.Now()
	answer := b.answer(now)
	b.calls = append(b.calls, now)
	b.inFlight++
	b.most = max(b.most, b.inFlight)
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.inFlight--
	}()
	if !elapse(ctx, b.latency) {
		return Answer{Reason: tasks.TimedOut}
	}
	return answer
}

// elapse lets time pass, and reports whether it passed before the context ended.
func elapse(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// refused is a refusal, and whether it came with the answer of a call.
type refused struct {
	Refusal
	called bool
}

// try makes a call as a job does: it acquires a permit, calls, and reports the
// answer. It returns nil if the answer is about the task.
func (b *bundle) try(ctx context.Context, call func(context.Context) Answer) *refused {
	permit, refusal := b.Acquire(ctx)
	if refusal != nil {
		return &refused{*refusal, false}
	}
	defer permit.Close()
	if refusal := permit.Report(ctx, call(ctx)); refusal != nil {
		return &refused{*refusal, true}
	}
	return nil
}

func (b *bundle) do(ctx context.Context) *refused { return b.try(ctx, b.api) }

// fail makes n calls, one after the other, that end with the reason. It returns
// the last refusal.
func (b *bundle) fail(t *testing.T, n int, reason tasks.Reason) (r *refused) {
	t.Helper()
	b.answer = always(reason)
	for range n {
		r = b.do(t.Context())
	}
	return r
}

// between counts the calls that began from one time until before another.
func (b *bundle) between(from, to time.Time) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, at := range b.calls {
		if !at.Before(from) && at.Before(to) {
			n++
		}
	}
	return n
}

// load keeps n tasks before the gate for d. A refused task comes back at once,
// which is more load than the worker makes.
func (b *bundle) load(ctx context.Context, n int, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				if r := b.do(ctx); r != nil && !r.called {
					elapse(ctx, time.Millisecond)
				}
			}
		})
	}
	wg.Wait()
}

func TestReport_AnswerCounts(t *testing.T) {
	t.Parallel()
	for _, reason := range tasks.Reasons() {
		if reason == tasks.Throttled {
			continue
		}
		synctest.Test(t, func(t *testing.T) {
			b := setup(t, Config{})
			if r := b.fail(t, 1, reason); r != nil {
				t.Errorf("%s: refused, %+v; want its answer to count", reason, r)
			}
			if s := b.Status(); s.InFlight != 0 || s.Calls != 1 {
				t.Errorf("%s: %+v; want one call, none in flight", reason, s)
			}
		})
	}
}

func TestPermitClose_PanicFreesPlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{MaxInFlight: 1, ConsecutiveFailures: 1})
		func() {
			defer func() {
				if x := recover(); x != "boom" {
					t.Errorf("recovered %v; want the panic of the call", x)
				}
			}()
			b.try(t.Context(), func(context.Context) Answer { panic("boom") })
		}()
		if r := b.do(t.Context()); r != nil {
			t.Errorf("refused after a panic: %+v; want a call", r)
		}
		if s := b.Status(); s.State != Closed {
			t.Errorf("a panic opened the breaker: %+v; want closed", s)
		}
	})
}

func TestAcquire_MaxInFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{MaxInFlight: 3})
		b.load(t.Context(), 20, 10*time.Second)
		if b.most != 3 {
			t.Errorf("%d in flight; want 3", b.most)
		}
		if n := len(b.calls); n < 1400 {
			t.Errorf("%d calls of 20ms in 10s; want about 1500", n)
		}
	})
}

func TestAcquire_LongestWaitGoesFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{MaxInFlight: 1})
		var order []int
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				b.try(t.Context(), func(ctx context.Context) Answer {
					order = append(order, i)
					return b.api(ctx)
				})
			})
			synctest.Wait()
		}
		wg.Wait()
		if !slices.IsSorted(order) || len(order) != 10 {
			t.Errorf("calls in the order %v; want the order of arrival", order)
		}
	})
}

func TestAcquire_MaxWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{MaxInFlight: 1, MaxWait: 3 * time.Second, Jitter: 5 * time.Second})
		b.latency = time.Minute
		go b.do(t.Context())
		synctest.Wait()
		start := time.Now()
		r := b.do(t.Context())
		if r == nil || r.Cause != ByInFlight || r.Reason != tasks.Throttled || r.called || r.Message == "" {
			t.Fatalf("%+v; want a refusal by in_flight, before the call", r)
		}
		if waited := time.Since(start); waited != 3*time.Second {
			t.Errorf("waited %s; want 3s", waited)
		}
		if r.Delay < time.Second || r.Delay > 5*time.Second {
			t.Errorf("delay %s; want 1s to 5s", r.Delay)
		}
		if s := b.Status(); s.Waiting != 0 || s.Refused[ByInFlight] != 1 {
			t.Errorf("%+v; want nobody waiting, and one refusal", s)
		}
		elapse(t.Context(), time.Minute)
	})
}

func TestAcquire_WaitersGiveWay(t *testing.T) {
	t.Parallel()
	for name, give := range map[string]func(g *Gate, cancel func()){
		"to Stop":              func(g *Gate, _ func()) { g.Stop() },
		"to their own context": func(_ *Gate, cancel func()) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := setup(t, Config{})
				b.fail(t, 10, tasks.Upstream)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				refusals := make(chan *refused)
				for range 5 {
					go func() { refusals <- b.do(ctx) }()
				}
				synctest.Wait()
				start := time.Now()
				give(b.Gate, cancel)
				for range 5 {
					if r := <-refusals; r.Cause != ByInterrupt || r.Reason != tasks.Upstream || r.Delay != interruptedDelay {
						t.Errorf("%+v; want an interrupt with a delay of %s", r, interruptedDelay)
					}
				}
				if waited := time.Since(start); waited != 0 {
					t.Errorf("waiters gave way after %s; want at once", waited)
				}
				if r := b.do(ctx); r == nil || r.Cause != ByInterrupt {
					t.Errorf("a task that came later got %+v; want an interrupt", r)
				}
			})
		})
	}
}

// If a task is granted its permit at the moment in which its context ends, it must
// not keep its place, nor leave a probe under way for ever.
func TestAcquire_GrantedWhenContextEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{MaxInFlight: 1})
		b.fail(t, 10, tasks.Upstream)
		elapse(t.Context(), 2*time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()

		b.Gate.mu.Lock()
		w := &waiter{deadline: time.Now().Add(time.Second), decided: make(chan struct{})}
		b.waiters = append(b.waiters, w)
		b.admit()
		if s := b.breaker.state; s != HalfOpen || w.permit == nil || w.refusal != nil {
			t.Fatalf("%s, %+v; want a permit for a probe", s, w.refusal)
		}
		p, r := b.endWait(ctx, w, time.Now())
		b.Gate.mu.Unlock()
		if p != nil || r == nil || r.Cause != ByInterrupt {
			t.Errorf("%+v, %+v; want no permit, and an interrupt", p, r)
		}
		if s := b.Status(); s.InFlight != 0 || s.Waiting != 0 || s.Calls != 10 {
			t.Errorf("%+v; want nothing under way, and 10 calls made", s)
		}
		b.answer = always(tasks.OK)
		start := time.Now()
		for range 3 {
			b.do(t.Context())
		}
		if s := b.Status(); s.State != Closed || time.Since(start) > 3*time.Second {
			t.Errorf("%s after %s; want the next task to be the probe, and closed within 3s", s.State, time.Since(start))
		}
	})
}

func TestNew_ChecksConfig(t *testing.T) {
	t.Parallel()
	if _, err := New(Config{}); err != nil {
		t.Errorf("the defaults were refused: %v; want no error", err)
	}
	for name, cfg := range map[string]Config{
		"rate": {Rate: -1}, "in flight": {MaxInFlight: -1}, "wait": {MaxWait: -1}, "jitter": {Jitter: time.Millisecond},
		"consecutive failures": {ConsecutiveFailures: -1}, "failure time": {MinFailureTime: -1},
		"throttle": {ThrottleMin: time.Hour}, "cap": {ThrottleMax: time.Hour},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: %+v was accepted; want an error", name, cfg)
		}
	}
}
