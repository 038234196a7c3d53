package fetch

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
)

// watched returns a Fetcher that watches queue a, and not queue b. Without a watcher it would
// find a task of a after a tenth of a second at most.
func watched(t *testing.T, redisArgs ...string) (b *bench, trips *atomic.Int64) {
	t.Helper()
	b = setup(t, 4, map[string]int{"a": 1, "b": 1}, redisArgs...)
	trips = new(atomic.Int64)
	b.rdb.AddHook(countPipelines{trips})
	b.cfg.Watch = []string{"a"}
	b.Fetcher = New(b.cfg)
	return b, trips
}

// latency returns the median time from the call of enqueue until the task is taken.
func (b *bench) latency(queue string) time.Duration {
	b.t.Helper()
	var all []time.Duration
	for i := range 21 {
		time.Sleep(30 * time.Millisecond) //nolint:forbidigo // the queue is empty for a while
		began := time.Now()
		b.enqueue(queue, queue+strconv.Itoa(i))
		b.want("the task", b.next(), queue+strconv.Itoa(i))
		all = append(all, time.Since(began))
		b.done()
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// A task of a queue that is watched begins at once, and one of another queue soon.
func TestWatch_BeginsAtOnce(t *testing.T) {
	t.Parallel()
	b, trips := watched(t)
	b.run()
	watched, other := b.latency("a"), b.latency("b")
	if watched > 25*time.Millisecond && watched > other*2/3 { // a busy machine delays both
		t.Errorf("a task of the watched queue begins after %s, and one of the other queue after %s; want a few milliseconds", watched, other)
	}
	if other > 2*seldom {
		t.Errorf("a task of the other queue begins after %s; want at most %s", other, seldom)
	}
	before := trips.Load()
	time.Sleep(10 * seldom) //nolint:forbidigo // nothing to do
	if n := trips.Load() - before; n > 15 {
		t.Errorf("%d looks in %s without a task; want 10", n, 10*seldom)
	}
}

// What is watched keeps its order.
func TestWatch_KeepsTheOrder(t *testing.T) {
	t.Parallel()
	b, _ := watched(t)
	for i := range 100 {
		ctx, cancel := context.WithCancel(t.Context())
		w := &watcher{queue: b.queues[0], begin: make(chan struct{}, 1)}
		tell := make(chan *queue, 1)
		wake(w.begin)
		go w.run(ctx, b.rdb, tell)
		if i == 0 {
			b.enqueue("a", ids("a", 5)...)
		}
		<-tell
		cancel()
	}
	b.want("pending, the first to be taken last", b.list(asynqx.PendingKey("a")), []string{"a4", "a3", "a2", "a1", "a0"})
}

// A queue that has tasks which nobody takes is not watched: Redis would answer at once, again
// and again.
func TestWatch_LeavesPausedQueuesAlone(t *testing.T) {
	t.Parallel()
	b, trips := watched(t)
	b.run()
	if err := asynq.NewInspectorFromRedisClient(b.rdb).PauseQueue("a"); err != nil {
		t.Fatal(err)
	}
	b.enqueue("a", "a0")
	time.Sleep(2 * seldom) //nolint:forbidigo // the task is seen
	before := trips.Load()
	time.Sleep(10 * seldom) //nolint:forbidigo // nothing to do
	if n := trips.Load() - before; n > 60 {
		t.Errorf("%d round trips in %s for a queue that is paused; want about 10", n, 10*seldom)
	}
	b.want("a task of the queue that is paused", b.next(), "")
}

// Only one of the workers that see a task gets it. The others do not look for more at once.
func TestWatch_ManyIdleWorkers(t *testing.T) {
	t.Parallel()
	b, _ := watched(t)
	const workers, tasks = 10, 100
	for range workers {
		cfg := b.cfg
		cfg.Redis, cfg.Poll = b.server.Client(), 200*time.Millisecond
		other := &bench{t: t, Fetcher: New(cfg)}
		other.run()
		var taking sync.WaitGroup
		taking.Go(func() {
			for t.Context().Err() == nil {
				if _, ok := other.take(); ok {
					other.done()
				}
			}
		})
		t.Cleanup(func() { other.Stop(); taking.Wait() })
	}
	b.rdb.ConfigResetStat(t.Context())
	for i := range tasks {
		b.enqueue("a", "a"+strconv.Itoa(i))
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // a trickle of tasks
	}
	redistest.Eventually(t, 10*time.Second, "all tasks are taken", func() bool { return len(b.list(asynqx.PendingKey("a"))) == 0 })
	var moves int64
	for line := range strings.Lines(b.rdb.Info(t.Context(), "commandstats").Val()) {
		_, _ = fmt.Sscanf(line, "cmdstat_blmove:calls=%d,", &moves)
	}
	if most := int64(workers * tasks / 2); moves < tasks/2 || moves > most {
		t.Errorf("%d times a worker watched, for %d tasks; want at most %d, as each pauses for 200ms when another one was faster", moves, tasks, most)
	}
}

// A Redis that does not know the command is asked all the time, as before.
func TestWatch_WithoutTheCommand(t *testing.T) {
	t.Parallel()
	b, _ := watched(t, "--rename-command", "BLMOVE", "")
	b.run()
	b.latency("a") // until it is known that there is none
	if l := b.latency("b"); l > seldom/2 {
		t.Errorf("a task begins after %s; want at most about %s", l, b.cfg.Poll)
	}
}
