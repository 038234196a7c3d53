package gate

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// stopped counts the workers that say that unbinds are stopped, and those whose knowledge of
// that is old.
func (s *simulation) stopped() (known, untested int) {
	for _, b := range s.gates {
		switch u := b.unbinds(); {
		case u.State != Closed && u.Untested:
			untested++
		case u.State != Closed:
			known++
		case u.Untested:
			s.t.Error("a closed breaker is untested; want only one that is not closed")
		}
	}
	return known, untested
}

// In an outage somebody says so for as long as a task waits, however few tasks and however
// many workers there are: each task is in one worker at a time.
func TestUntested_NotWhileTasksWait(t *testing.T) {
	t.Parallel()
	for name, load := range map[string]struct{ workers, tasks int }{
		"one worker, one task":     {1, 1},
		"two workers, one task":    {2, 1},
		"ten workers, three tasks": {10, 3},
		"two workers, many tasks":  {2, 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const begin, end = time.Minute, 7 * time.Hour
				s := simulate(t, load.workers, 8, down(tasks.Unauthorized, begin, end))
				s.enqueue(0, 100, unbinds("before-", 100))
				s.enqueue(begin, 60, unbinds("at-first-", 60)) // they open the breakers
				s.pass(begin + 10*time.Second)
				s.mu.Lock()
				s.ready = s.ready[:0] // an operator cancels them
				s.mu.Unlock()
				s.enqueue(begin+10*time.Second, load.tasks, unbinds("", load.tasks))
				for at := begin + 10*time.Second; at < end; at += time.Second {
					if known, untested := s.stopped(); known == 0 {
						t.Fatalf("after %s: no worker says that calls are stopped, and %d of %d do not know; want one at least", at, untested, load.workers)
					}
					s.pass(time.Second)
				}
				s.pass(30 * time.Minute)
				if known, _ := s.stopped(); known > 0 {
					t.Errorf("%d of %d workers say that calls are stopped, long after the outage; want none", known, load.workers)
				}
			})
		})
	}
}

// A worker that gets no task after the outage does not say for ever that calls are stopped.
// It does not call to find out, and the next task is its probe.
func TestUntested_NoTaskComes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{})
		b.breakUnbinds(t)
		since, calls := b.unbinds().Since, len(b.calls)
		const patience = 5 * time.Minute
		elapse(t.Context(), b.cfg.Jitter) // the tasks that were put back might come
		if u := b.unbinds(); u.Untested {
			t.Errorf("%+v while the tasks that were put back are not due; want that it is known", u)
		}
		elapse(t.Context(), patience)
		if u := b.unbinds(); !u.Untested || u.State != Open || u.Reason != tasks.Upstream || !u.Since.Equal(since) {
			t.Errorf("%+v after %s without a task; want open since %s, and untested", u, patience, since)
		}
		if n := len(b.calls) - calls; n != 0 {
			t.Errorf("%d calls without a task; want none", n)
		}
		b.do(t.Context()) // KooDrive still fails
		if u := b.unbinds(); u.Untested || u.State != Open {
			t.Errorf("%+v after a probe that failed; want open, and known", u)
		}
		elapse(t.Context(), patience)
		b.answer = always(tasks.OK)
		b.do(t.Context())
		if u := b.unbinds(); u.Untested || u.State != Closed {
			t.Errorf("%+v after a probe that succeeded; want closed", u)
		}
	})
}

// While a probe is under way, or a task waits for its turn, the state is known: it hangs as
// long as the call does.
func TestUntested_ProbeUnderWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{})
		b.breakUnbinds(t)
		elapse(t.Context(), time.Hour)
		p := b.acquire(t)
		elapse(t.Context(), time.Hour)
		if u := b.unbinds(); u.Untested || u.State != HalfOpen {
			t.Errorf("%+v while a probe is under way; want half-open, and known", u)
		}
		p.Cancel()
	})
}

// A quota that is used up is told of as well: until no task that was put back comes any more.
func TestUntested_QuotaUsedUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{Fleet: newFakeFleet()})
		b.answer = func(time.Time, Call) Answer { return Answer{Reason: tasks.Throttled, RetryAfter: 10 * time.Minute} }
		b.load(t.Context(), 20, 10*time.Second)
		status := func() QuotaStatus { return b.Status().Quotas[Unbind] }
		if q := status(); q.Phase != "closed" || q.Untested {
			t.Fatalf("%+v; want closed, and known", q)
		}
		elapse(t.Context(), 10*time.Minute)
		if q := status(); q.Phase != "closed" || q.Untested {
			t.Errorf("%+v while the tasks are not due; want closed, and known", q)
		}
		elapse(t.Context(), 10*time.Minute)
		if q := status(); q.Phase != "closed" || !q.Untested {
			t.Errorf("%+v, and no task came; want closed, and untested", q)
		}
		if q := b.Status().Quotas[Release]; q.Untested {
			t.Errorf("releases: %+v; want that nothing is untested", q)
		}
		b.do(t.Context())
		if q := status(); q.Untested {
			t.Errorf("%+v after a call; want known", q)
		}
	})
}

// A worker with a bad credential says so for as long as it gets tasks, and no longer.
func TestUntested_OneBadWorker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := simulate(t, 2, 16, always(tasks.OK))
		s.gates[0].answer = always(tasks.Unauthorized)
		for i := range 1200 {
			s.enqueue(time.Duration(i)*500*time.Millisecond, 1, unbinds(fmt.Sprint("u-", i), 1))
		}
		for range 9 {
			s.pass(time.Minute)
			if known, _ := s.stopped(); known != 1 {
				t.Errorf("%d workers say that calls are stopped; want the bad one", known)
			}
		}
		s.pass(3 * time.Hour) // the last tasks may come to the bad worker a few times
		if known, untested := s.stopped(); known != 0 || untested != 1 {
			t.Errorf("%d workers say that calls are stopped, and %d do not know; want 0 and the bad one", known, untested)
		}
	})
}
