package gate

import (
	"container/heap"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// These tests answer one question over many loads, in virtual time: whose fault is
// it? They run whole queues with retries. The package comment has the rules.

// order is a task in the queue of a simulation.
type order struct {
	call    Call
	due     time.Time
	charged int
	doneAt  time.Time // zero: not done
	dead    bool
}

// maxAttempts is the budget of the default policy.
const maxAttempts = 12

// simulation is a queue with delays, as asynq has, and workers.
type simulation struct {
	t      *testing.T
	start  time.Time
	answer func(now time.Time, call Call) Answer
	gates  []*bundle

	mu      sync.Mutex
	ready   []*order // a heap
	all     []*order
	changed chan struct{} // closed when an order is added
}

func (s *simulation) Len() int           { return len(s.ready) }
func (s *simulation) Less(i, j int) bool { return s.ready[i].due.Before(s.ready[j].due) }
func (s *simulation) Swap(i, j int)      { s.ready[i], s.ready[j] = s.ready[j], s.ready[i] }
func (s *simulation) Push(x any)         { s.ready = append(s.ready, x.(*order)) }
func (s *simulation) Pop() any {
	last := s.ready[len(s.ready)-1]
	s.ready = s.ready[:len(s.ready)-1]
	return last
}

// simulate starts workers. answer is the API's.
func simulate(t *testing.T, workers, slots int, answer func(now time.Time, call Call) Answer) *simulation {
	t.Helper()
	s := &simulation{t: t, start: time.Now(), answer: answer, changed: make(chan struct{})}
	fleet := newFakeFleet()
	fleet.live, fleet.was, fleet.lag = workers, workers, 500*time.Millisecond
	for range workers {
		b := setup(t, Config{Fleet: fleet, Jitter: 2 * time.Second})
		b.answer, b.latency = answer, 20*time.Millisecond
		s.gates = append(s.gates, b)
		for range slots {
			go s.work(t.Context(), b)
		}
	}
	return s
}

// enqueue adds n tasks that are due at a time. nth returns the call of the i'th.
func (s *simulation) enqueue(due time.Duration, n int, nth func(i int) Call) []*order {
	s.mu.Lock()
	defer s.mu.Unlock()
	var added []*order
	for i := range n {
		o := &order{call: nth(i), due: s.start.Add(due)}
		heap.Push(s, o)
		added = append(added, o)
	}
	s.all = append(s.all, added...)
	close(s.changed)
	s.changed = make(chan struct{})
	return added
}

// unbinds returns unbinds of these users in turn. Each has a device of its own.
func unbinds(prefix string, users int) func(i int) Call {
	return func(i int) Call {
		return Call{Kind: Unbind, User: fmt.Sprint(prefix, i%users), Target: fmt.Sprint("device-", prefix, i)}
	}
}

// work is one slot of a worker. It takes the tasks that are due until ctx ends.
func (s *simulation) work(ctx context.Context, b *bundle) {
	for ctx.Err() == nil {
		s.mu.Lock()
		wait, changed := time.Hour, s.changed
		var o *order
		if len(s.ready) > 0 {
			wait = min(wait, time.Until(s.ready[0].due))
			if held := b.Holds(s.ready[0].call.Kind); wait <= 0 && held {
				wait = 100 * time.Millisecond
			} else if wait <= 0 {
				o = heap.Pop(s).(*order)
			}
		}
		s.mu.Unlock()
		if o == nil {
			select {
			case <-ctx.Done():
			case <-changed:
			case <-time.After(wait):
			}
			continue
		}
		var answer Answer
		refused := b.try(ctx, o.call, func(ctx context.Context) Answer { answer = b.api(ctx, o.call); return answer })
		s.mu.Lock()
		switch now := time.Now(); {
		case refused != nil:
			o.due = now.Add(refused.Delay)
			heap.Push(s, o)
		case isSuccess(answer.Reason):
			o.doneAt = now
		default:
			o.charged++
			budget := map[tasks.Reason]int{tasks.Forbidden: 1, tasks.Invalid: 1, tasks.Rejected: 5}[answer.Reason]
			if budget == 0 {
				budget = maxAttempts
			}
			if o.dead = o.charged >= budget; !o.dead {
				delay := min(2*time.Second<<(o.charged-1), 15*time.Minute)
				o.due = now.Add(randDuration(delay/2, delay*3/2))
				heap.Push(s, o)
			}
		}
		s.mu.Unlock()
	}
}

// pass lets time pass.
func (s *simulation) pass(d time.Duration) { elapse(s.t.Context(), d) }

// count counts the orders that match.
func (s *simulation) count(orders []*order, matches func(*order) bool) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range orders {
		if matches(o) {
			n++
		}
	}
	return n
}

func isDone(o *order) bool  { return !o.doneAt.IsZero() }
func isDead(o *order) bool  { return o.dead }
func charged(o *order) bool { return o.charged > 0 }

// calls counts the calls of all workers in a span of time since the start.
func (s *simulation) calls(from, to time.Duration) (n int) {
	for _, b := range s.gates {
		n += b.between(s.start.Add(from), s.start.Add(to))
	}
	return n
}

// down answers with a failure for a span of time since the start of the bubble.
func down(reason tasks.Reason, from, to time.Duration) func(time.Time, Call) Answer {
	start := time.Now()
	return func(now time.Time, _ Call) Answer {
		if at := now.Sub(start); at >= from && at < to {
			return Answer{Reason: reason}
		}
		return Answer{Reason: tasks.OK}
	}
}

// An outage is charged to nobody, however few tasks notice it.
func TestBlame_OutageOnQuietFleet(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for name, load := range map[string]struct {
		workers int
		every   time.Duration
	}{
		"one task a minute":                         {1, time.Minute},
		"one task an hour":                          {1, time.Hour},
		"ten workers share a task every 6 s":        {10, 6 * time.Second},
		"ten workers share a task every 20 minutes": {10, 20 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := simulate(t, load.workers, 2, down(tasks.Upstream, time.Minute, day))
				s.enqueue(0, 3, unbinds("before-", 3))
				for at := time.Minute; at < day; at += load.every {
					s.enqueue(at, 1, unbinds(fmt.Sprint("at-", at, "-"), 1))
				}
				s.pass(day)
				if n := s.count(s.all, charged); n != 0 {
					t.Errorf("%d of %d tasks were charged; want none", n, len(s.all))
				}
				n := s.calls(time.Minute, day)
				t.Logf("%d tasks, %d calls in the outage", len(s.all), n)
				if perSecond := float64(n) / day.Seconds(); perSecond >= 1 {
					t.Errorf("%.2f calls a second in the outage; want fewer than one", perSecond)
				}
				s.pass(30 * time.Minute)
				if n := s.count(s.all, isDone); n != len(s.all) {
					t.Errorf("%d of %d tasks are done half an hour after the outage; want all", n, len(s.all))
				}
			})
		})
	}
}

// An outage begins in the middle of a fast drain.
func TestBlame_OutageOnBusyFleet(t *testing.T) {
	t.Parallel()
	for _, users := range []int{1, 7, 20_000} {
		t.Run(fmt.Sprint(users, " users"), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const from, to = 2 * time.Second, 10 * time.Minute
				s := simulate(t, 1, 64, down(tasks.Upstream, from, to))
				s.enqueue(0, 20_000, unbinds("", users))
				s.pass(to)
				n := s.calls(from, to)
				t.Logf("%d calls before the outage, %d in it", s.calls(0, from), n)
				if n > 100 {
					t.Errorf("%d calls in the outage; want at most 100", n)
				}
				s.pass(10 * time.Minute)
				if done, bad := s.count(s.all, isDone), s.count(s.all, charged); done != 20_000 || bad != 0 {
					t.Errorf("%d tasks done, %d charged; want 20000, and none", done, bad)
				}
			})
		})
	}
}

// What everybody gets is about KooDrive, whatever the answer is.
func TestBlame_SameAnswerForEverybody(t *testing.T) {
	t.Parallel()
	for _, reason := range []tasks.Reason{tasks.Rejected, tasks.Misrouted, tasks.Unauthorized, tasks.Forbidden, tasks.Invalid} {
		t.Run(string(reason), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const from, to = time.Second, time.Hour
				s := simulate(t, 1, 64, down(reason, from, to))
				s.enqueue(0, 10_000, unbinds("", 10_000))
				s.pass(to)
				if n := s.calls(from, to); n > 200 {
					t.Errorf("%d calls in the hour; want at most 200", n)
				}
				if b := s.gates[0].unbinds(); b.State == Closed || b.Reason != reason {
					t.Errorf("%+v; want open for %s", b, reason)
				}
				s.pass(10 * time.Minute)
				if done, bad := s.count(s.all, isDone), s.count(s.all, charged); done != 10_000 || bad != 0 {
					t.Errorf("%d tasks done, %d charged; want 10000, and none", done, bad)
				}
			})
		})
	}
}

// badUsers fails for users with a prefix.
func badUsers(prefix string, reason tasks.Reason) func(time.Time, Call) Answer {
	return func(_ time.Time, call Call) Answer {
		if strings.HasPrefix(call.User, prefix) {
			return Answer{Reason: reason}
		}
		return Answer{Reason: tasks.OK}
	}
}

// Some users' calls always fail. The others must not wait for them, and in the end
// the tasks of the bad users are dead.
func TestBlame_BadUsers(t *testing.T) {
	t.Parallel()
	for name, load := range map[string]struct {
		reason        tasks.Reason
		bad, badUsers int // tasks, and the users that have them
		good          int
		within        time.Duration // the good ones are done
	}{
		"60 % of the tasks are one user's":          {tasks.Upstream, 1200, 1, 800, 30 * time.Second},
		"20 % of the tasks are one user's":          {tasks.Upstream, 400, 1, 1600, 30 * time.Second},
		"20 % of the users":                         {tasks.Upstream, 400, 400, 1600, 30 * time.Second},
		"60 % of the users":                         {tasks.Upstream, 1200, 1200, 800, 60 * time.Second},
		"five of 55 users have a bad token":         {tasks.Unauthorized, 50, 5, 50, 10 * time.Second},
		"80 of 2,000 users have no permission":      {tasks.Forbidden, 80, 80, 1920, 30 * time.Second},
		"a code that is not known, for 10 % of all": {tasks.Rejected, 200, 20, 1800, 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := simulate(t, 1, 64, badUsers("bad-", load.reason))
				places := rand.Perm(load.bad + load.good) //nolint:gosec // only a mixture
				all := s.enqueue(0, len(places), func(i int) Call {
					if place := places[i]; place < load.bad {
						return unbinds("bad-", load.badUsers)(place)
					}
					return unbinds("good-", load.good)(places[i])
				})
				isBad := func(o *order) bool { return strings.HasPrefix(o.call.User, "bad-") }
				bad, good := slices.DeleteFunc(slices.Clone(all), func(o *order) bool { return !isBad(o) }), slices.DeleteFunc(all, isBad)
				for s.count(good, isDone) < load.good && time.Since(s.start) < load.within {
					s.pass(time.Second)
				}
				if n := s.count(good, isDone); n != load.good {
					t.Errorf("%d of %d good tasks are done after %s; want all", n, load.good, load.within)
				}
				t.Logf("the good ones were done after %s", time.Since(s.start))
				// Only the bad ones are left. Newcomers must not wait for them.
				s.pass(time.Minute)
				newcomers := s.enqueue(time.Since(s.start), 20, unbinds("newcomer-", 20))
				s.pass(10 * time.Second)
				if n := s.count(newcomers, isDone); n != 20 {
					t.Errorf("%d of 20 newcomers are done after 10s; want all", n)
				}
				s.pass(3 * time.Hour)
				if n := s.count(bad, isDead); n != load.bad {
					t.Errorf("%d of %d bad tasks are dead after three hours; want all", n, load.bad)
				}
				if n := s.count(s.all, func(o *order) bool { return isDone(o) && charged(o) }); n != 0 {
					t.Errorf("%d good tasks were charged; want none", n)
				}
			})
		})
	}
}

// The first tasks of the queue are those of a user whose calls are refused.
func TestBlame_BadUserFirst(t *testing.T) {
	t.Parallel()
	for _, reason := range []tasks.Reason{tasks.Upstream, tasks.Unauthorized, tasks.Forbidden, tasks.Misrouted} {
		for _, n := range []int{4, 500} {
			t.Run(fmt.Sprint(reason, n), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					s := simulate(t, 1, 16, badUsers("bad-", reason))
					s.enqueue(0, n, unbinds("bad-", 1))
					others := s.enqueue(time.Second, 20, unbinds("other-", 20))
					s.pass(3 * time.Minute)
					if n := s.count(others, isDone); n != 20 {
						t.Errorf("%d of 20 tasks of others are done after 3m; want all", n)
					}
				})
			})
		}
	}
}

// The gateway does not know one kind of call. The other kind must go on.
func TestBlame_OneKindOfCall(t *testing.T) {
	t.Parallel()
	for _, users := range []int{1, 100} {
		synctest.Test(t, func(t *testing.T) {
			s := simulate(t, 1, 16, func(_ time.Time, call Call) Answer {
				if call.Kind == Release {
					return Answer{Reason: tasks.Misrouted}
				}
				return Answer{Reason: tasks.OK}
			})
			releases := s.enqueue(0, 100, func(i int) Call {
				return Call{Kind: Release, User: fmt.Sprint("r-", i%users), Target: fmt.Sprint("lock-", i)}
			})
			good := s.enqueue(0, 100, unbinds("u-", 100))
			s.pass(20 * time.Second)
			if n := s.count(good, isDone); n != 100 {
				t.Errorf("%d of 100 unbinds are done after 20s; want all", n)
			}
			s.pass(24 * time.Hour)
			if n := s.count(releases, charged); n != 0 {
				t.Errorf("%d releases were charged; want none", n)
			}
			n := s.calls(time.Minute, 24*time.Hour)
			t.Logf("%d users: %d calls in a day", users, n)
			if n > 24*60*60/2 {
				t.Errorf("%d calls in a day; want less than one in two seconds", n)
			}
		})
	}
}

// Tasks that always fail are dead in the end, even if nothing else is queued, as
// long as KooDrive answers a harmless question.
func TestBlame_OnlyBadTasks(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ tasks, users int }{{1, 1}, {30, 1}, {30, 30}} {
		t.Run(fmt.Sprint(tc), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := simulate(t, 1, 16, func(_ time.Time, call Call) Answer {
					if call.Kind == List {
						return Answer{Reason: tasks.OK}
					}
					return Answer{Reason: tasks.Upstream}
				})
				s.enqueue(0, tc.tasks, unbinds("", tc.users))
				s.pass(3 * time.Hour)
				if n := s.count(s.all, isDead); n != tc.tasks {
					t.Errorf("%d of %d tasks are dead after three hours; want all", n, tc.tasks)
				}
			})
		})
	}
}

// KooDrive fails for everybody, for less than a second at a time. In hindsight it was
// nobody's fault.
func TestBlame_ShortOutages(t *testing.T) {
	t.Parallel()
	for _, reason := range []tasks.Reason{tasks.Upstream, tasks.Forbidden, tasks.Invalid, tasks.Unauthorized} {
		t.Run(string(reason), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				s := simulate(t, 1, 32, func(now time.Time, _ Call) Answer {
					if at := now.Sub(start); at > time.Second && at%(2*time.Second) < 400*time.Millisecond {
						return Answer{Reason: reason}
					}
					return Answer{Reason: tasks.OK}
				})
				s.enqueue(0, 6000, unbinds("", 6000))
				s.pass(10 * time.Minute)
				if done, bad := s.count(s.all, isDone), s.count(s.all, charged); done < 6000-60 || bad > 60 {
					t.Errorf("%d of 6000 tasks done, %d charged; want all, and none, give or take 1 %%", done, bad)
				}
			})
		})
	}
}

// The credential or the network of one worker is bad. Its tasks are not at fault, since
// other workers' calls succeed.
func TestBlame_OneBadWorker(t *testing.T) {
	t.Parallel()
	for _, reason := range []tasks.Reason{tasks.Unauthorized, tasks.Misrouted, tasks.Forbidden, tasks.Upstream} {
		t.Run(string(reason), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := simulate(t, 2, 16, func(time.Time, Call) Answer { return Answer{Reason: tasks.OK} })
				s.enqueue(0, 100, unbinds("before-", 100))
				s.pass(2 * time.Second)
				s.gates[0].mu.Lock()
				s.gates[0].answer = func(time.Time, Call) Answer { return Answer{Reason: reason} }
				s.gates[0].mu.Unlock()
				for i := range 600 {
					s.enqueue(2*time.Second+time.Duration(i)*100*time.Millisecond, 1, unbinds(fmt.Sprint("slow-", i), 1))
				}
				s.enqueue(2*time.Second, 2000, unbinds("", 2000))
				s.pass(10 * time.Minute)
				if done, bad := s.count(s.all, isDone), s.count(s.all, charged); done < len(s.all)-16 || bad != 0 {
					t.Errorf("%d of %d tasks done, %d charged; want all but what the bad worker has, and none", done, len(s.all), bad)
				}
			})
		})
	}
}

// The tasks of many bad users wait. Newcomers must not wait behind them.
func TestBlame_NewcomersBehindManyBadUsers(t *testing.T) {
	t.Parallel()
	for _, list := range []tasks.Reason{tasks.OK, tasks.Upstream, tasks.Misrouted} {
		t.Run(string(list), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := simulate(t, 1, 64, func(_ time.Time, call Call) Answer {
					switch {
					case strings.HasPrefix(call.User, "newcomer-"):
						return Answer{Reason: tasks.OK}
					case call.Kind == List:
						return Answer{Reason: list}
					default:
						return Answer{Reason: tasks.Upstream}
					}
				})
				s.enqueue(0, 1800, unbinds("bad-", 60))
				newcomers := s.enqueue(5*time.Second, 20, unbinds("newcomer-", 20))
				s.pass(4 * time.Minute)
				if n := s.count(newcomers, isDone); n != 20 {
					t.Errorf("%d of 20 newcomers are done after four minutes; want all", n)
				}
			})
		})
	}
}

// Nothing reaches KooDrive, and all tasks are one user's.
func TestBlame_NothingIsSent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := simulate(t, 1, 64, func(time.Time, Call) Answer { return Answer{Reason: tasks.Network, NotSent: true} })
		s.enqueue(0, 3000, unbinds("", 1))
		s.pass(10 * time.Minute)
		if n := s.calls(0, 10*time.Minute); n > 100 || s.count(s.all, charged) != 0 {
			t.Errorf("%d calls in ten minutes, %d charged; want at most 100, and none", n, s.count(s.all, charged))
		}
	})
}

// A proxy that is down is not the task's fault, even if it is one task's only.
func TestBlame_CallsThatWereNotSent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := simulate(t, 1, 4, func(_ time.Time, call Call) Answer {
			if call.User == "bad-0" {
				return Answer{Reason: tasks.Network, NotSent: true}
			}
			return Answer{Reason: tasks.OK}
		})
		bad := s.enqueue(0, 1, unbinds("bad-", 1))
		for at := range 100 {
			s.enqueue(time.Duration(at)*time.Minute, 1, unbinds(fmt.Sprint("good-", at), 1))
		}
		s.pass(100 * time.Minute)
		if n := s.count(bad, charged); n != 0 {
			t.Errorf("a task whose calls were not sent was charged; want no charge")
		}
		if n := s.count(s.all, isDone); n != 100 {
			t.Errorf("%d of 100 other tasks are done; want all", n)
		}
	})
}
