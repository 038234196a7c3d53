package gate

import (
	"context"
	"slices"
	"strconv"
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
	answer   func(now time.Time, call Call) Answer // of the API
	latency  time.Duration                         // of the API
	calls    []time.Time                           // when they began
	inFlight int
	most     int // most calls in flight at a time
	users    int // that have called; each call of do is another user's
	changes  []string
}

func setup(t *testing.T, cfg Config) *bundle {
	t.Helper()
	b := &bundle{answer: always(tasks.OK), latency: 20 * time.Millisecond}
	cfg.OnChange = func(kind Kind, from, to State, reason tasks.Reason) {
		b.changes = append(b.changes, string(kind)+": "+from.String()+" "+to.String()+" "+string(reason))
	}
	cfg.Check = func(ctx context.Context, user string) Answer { return b.api(ctx, Call{Kind: List, User: user}) }
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.Gate = g
	t.Cleanup(g.Stop)
	if cfg.Fleet != nil {
		ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
		done := make(chan struct{})
		go func() { g.Pace(ctx); close(done) }()
		t.Cleanup(func() { stop(); <-done })
	}
	return b
}

func always(reason tasks.Reason) func(time.Time, Call) Answer {
	return func(time.Time, Call) Answer { return Answer{Reason: reason} }
}

// api is a call of the API.
func (b *bundle) api(ctx context.Context, call Call) Answer {
	b.mu.Lock()
	now := time.Now()
	answer := b.answer(now, call)
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
func (b *bundle) try(ctx context.Context, call Call, do func(context.Context) Answer) *refused {
	permit, refusal := b.Acquire(ctx, call)
	if refusal != nil {
		return &refused{*refusal, false}
	}
	defer permit.Close()
	if refusal := permit.Report(ctx, do(ctx)); refusal != nil {
		return &refused{*refusal, true}
	}
	return nil
}

// unbind is an unbind of a user of its own.
func (b *bundle) unbind() Call {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.users++
	n := strconv.Itoa(b.users)
	return Call{Kind: Unbind, User: "user-" + n, Target: "device-" + n}
}

func (b *bundle) call(ctx context.Context, call Call) *refused {
	return b.try(ctx, call, func(ctx context.Context) Answer { return b.api(ctx, call) })
}

func (b *bundle) do(ctx context.Context) *refused { return b.call(ctx, b.unbind()) }

// breakUnbinds opens the breaker of unbinds, with someTasks calls at once that fail.
func (b *bundle) breakUnbinds(t *testing.T) {
	t.Helper()
	b.answer = always(tasks.Upstream)
	var wg sync.WaitGroup
	for range someTasks {
		wg.Go(func() {
			if r := b.do(t.Context()); r == nil {
				t.Error("a call that opens the breaker was charged; want a refusal")
			}
		})
	}
	wg.Wait()
	if s := b.unbinds(); s.State != Open || s.Reason != tasks.Upstream {
		t.Fatalf("%+v; want open for %s", s, tasks.Upstream)
	}
}

// unbinds is the state of the breaker of unbinds.
func (b *bundle) unbinds() BreakerStatus { return b.Status().Breakers[Unbind] }

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

func TestPermitClose_PanicFreesPlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{MaxInFlight: 1})
		func() {
			defer func() {
				if x := recover(); x != "boom" {
					t.Errorf("recovered %v; want the panic of the call", x)
				}
			}()
			b.try(t.Context(), b.unbind(), func(context.Context) Answer { panic("boom") })
		}()
		if r := b.do(t.Context()); r != nil {
			t.Errorf("refused after a panic: %+v; want a call", r)
		}
		if s := b.unbinds(); s.State != Closed {
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
				call := b.unbind()
				b.try(t.Context(), call, func(ctx context.Context) Answer {
					order = append(order, i)
					return b.api(ctx, call)
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
				b.breakUnbinds(t)
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
		b.breakUnbinds(t)
		calls := b.Status().Calls
		elapse(t.Context(), 2*time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()

		b.Gate.mu.Lock()
		w := &waiter{call: Call{Kind: Unbind, User: "u"}, deadline: time.Now().Add(time.Second), decided: make(chan struct{})}
		b.waiters = append(b.waiters, w)
		b.admit()
		if s := b.breakers[Unbind].state; s != HalfOpen || w.permit == nil || w.refusal != nil {
			t.Fatalf("%s, %+v; want a permit for a probe", s, w.refusal)
		}
		p, r := b.endWait(ctx, w, time.Now())
		b.Gate.mu.Unlock()
		if p != nil || r == nil || r.Cause != ByInterrupt {
			t.Errorf("%+v, %+v; want no permit, and an interrupt", p, r)
		}
		if s := b.Status(); s.InFlight != 0 || s.Waiting != 0 || s.Calls != calls {
			t.Errorf("%+v; want nothing under way, and %d calls made", s, calls)
		}
		b.answer = always(tasks.OK)
		start := time.Now()
		b.do(t.Context())
		if s := b.unbinds(); s.State != Closed || time.Since(start) > time.Second {
			t.Errorf("%s after %s; want the next task to be the probe, and closed within 1s", s.State, time.Since(start))
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
		"throttle": {ThrottleMin: time.Hour}, "cap": {ThrottleMax: time.Hour},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: %+v was accepted; want an error", name, cfg)
		}
	}
}
