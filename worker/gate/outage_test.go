package gate

import (
	"container/heap"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// backlog is a queue with delays, as asynq has.
type backlog struct {
	mu      sync.Mutex
	ready   []time.Time // a heap
	left    int         // tasks that are not done
	charges []time.Time
	done    []time.Time
}

func (q *backlog) Len() int           { return len(q.ready) }
func (q *backlog) Less(i, j int) bool { return q.ready[i].Before(q.ready[j]) }
func (q *backlog) Swap(i, j int)      { q.ready[i], q.ready[j] = q.ready[j], q.ready[i] }
func (q *backlog) Push(x any)         { q.ready = append(q.ready, x.(time.Time)) }
func (q *backlog) Pop() any {
	last := q.ready[len(q.ready)-1]
	q.ready = q.ready[:len(q.ready)-1]
	return last
}

// take takes a task that is due.
func (q *backlog) take() (ok, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.ready) == 0 || q.ready[0].After(time.Now()) {
		return false, q.left > 0
	}
	heap.Pop(q)
	return true, true
}

// work is one slot of a worker.
func (q *backlog) work(t *testing.T, b *bundle) {
	t.Helper()
	for {
		ok, more := q.take()
		if !more {
			return
		}
		if !ok {
			elapse(t.Context(), 100*time.Millisecond)
			continue
		}
		refused := b.do(t.Context())
		q.mu.Lock()
		switch now := time.Now(); {
		case refused != nil:
			heap.Push(q, now.Add(refused.Delay))
		case b.answer(now).Reason == tasks.OK:
			q.left--
			q.done = append(q.done, now)
		default:
			q.charges = append(q.charges, now)
			heap.Push(q, now.Add(randDuration(time.Second, 3*time.Second)))
		}
		q.mu.Unlock()
	}
}

// KooDrive answers 503 for half an hour, and 10,000 tasks wait.
func TestGate_HalfAnHourOf503(t *testing.T) {
	t.Parallel()
	for _, workers := range []int{1, 3} {
		synctest.Test(t, func(t *testing.T) { halfAnHour(t, workers) })
	}
}

func halfAnHour(t *testing.T, workers int) {
	t.Helper()
	const total, slots, outage = 10_000, 64, 30 * time.Minute
	start := time.Now()
	q := &backlog{left: total}
	for range total {
		q.ready = append(q.ready, start)
	}
	fleet := newFakeFleet()
	fleet.live = workers
	var gates []*bundle
	var wg sync.WaitGroup
	for range workers {
		b := setup(t, Config{Fleet: fleet})
		b.answer = func(now time.Time) Answer {
			if now.Before(start.Add(outage)) {
				return Answer{Reason: tasks.Upstream}
			}
			return Answer{Reason: tasks.OK}
		}
		gates = append(gates, b)
		for range slots {
			wg.Go(func() { q.work(t, b) })
		}
	}
	wg.Wait()

	closed := start
	var refusals, probes uint64
	for _, b := range gates {
		s := b.Status()
		if s.State != Closed || s.InFlight != 0 || s.Waiting != 0 {
			t.Errorf("%+v; want closed, and nothing in flight or waiting", s)
		}
		probes += s.Probes
		for _, n := range s.Refused {
			refusals += n
		}
		closed = s.Since
	}
	// All slots call at once, and get their answers at once. A slot that gets its
	// answer before the twentieth may call again within the same instant.
	opened := start.Add(gates[0].latency + time.Nanosecond)
	calls := 0
	for _, b := range gates {
		calls += b.between(opened, start.Add(outage))
	}
	if perSecond := float64(calls) / outage.Seconds(); perSecond >= 1 || calls == 0 {
		t.Errorf("%d calls while open, %.3f a second; want some, and fewer than one", calls, perSecond)
	}
	// Nineteen answers of each worker count before the twentieth opens its breaker.
	if len(q.charges) > 19*workers || len(q.charges) > 0 && q.charges[len(q.charges)-1].After(opened) {
		t.Errorf("%d attempts charged; want at most %d, none after %s", len(q.charges), 19*workers, opened)
	}
	if len(q.done) != total {
		t.Errorf("%d tasks done; want %d", len(q.done), total)
	}
	for _, b := range gates {
		since := b.Status().Since
		for second := range 5 {
			from := since.Add(time.Duration(second) * time.Second)
			want := max(10/workers, 1)<<second + 1<<second
			if n := b.between(from, from.Add(time.Second)); n > want {
				t.Errorf("%d calls in second %d after it closed; want at most %d", n, second, want)
			}
		}
	}
	t.Logf("%d workers: %d calls while open (%.3f/s), %d probes in all, %d refusals, %d charged before it opened; "+
		"closed %s after the outage, all done %s after it", workers, calls, float64(calls)/outage.Seconds(), probes, refusals,
		len(q.charges), closed.Sub(start.Add(outage)).Round(time.Second), q.done[total-1].Sub(start.Add(outage)).Round(time.Second))
}
