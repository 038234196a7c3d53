package fetch

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
)

// queuesOn returns the name of a queue on each master.
func queuesOn(t *testing.T, c *redistest.Cluster) (names []string) {
	t.Helper()
	for _, master := range c.Masters {
		for i := 0; ; i++ {
			if name := fmt.Sprint("q", i); c.MasterOf(asynqx.PendingKey(name)) == master {
				names = append(names, name)
				break
			}
		}
	}
	return names
}

// A master that answers late holds up nobody, and its tasks are not lost until their leases
// expire.
func TestFetch_SlowMaster(t *testing.T) {
	t.Parallel()
	const n = 300
	c := redistest.StartCluster(t, 2, false, "--cluster-node-timeout", "60000")
	queues := queuesOn(t, c)
	rdb := c.Client()
	asynqx.GuardNodes(rdb)
	client := asynq.NewClientFromRedisClient(c.Client())
	for _, queue := range queues {
		for i := range n {
			if _, err := client.Enqueue(asynq.NewTask("x", nil), asynq.Queue(queue), asynq.TaskID(fmt.Sprint(queue, "-", i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	f := New(Config{
		Redis: rdb, Queues: map[string]int{queues[0]: 1, queues[1]: 1}, Slots: 8, Poll: 10 * time.Millisecond, Logger: zap.NewNop(),
		Hold: func(string) bool { return false }, Halt: func() bool { return false },
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var mu sync.Mutex
	taken := make(map[string]map[string]int) // by queue and ID
	wg.Go(func() { f.Run(ctx) })
	wg.Go(func() {
		for ctx.Err() == nil {
			text, ok := f.take()
			if !ok {
				continue
			}
			end := f.Begin(false)
			m, err := asynqx.ParseMessage([]byte(text))
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			if taken[m.Queue] == nil {
				taken[m.Queue] = make(map[string]int)
			}
			taken[m.Queue][m.ID]++
			mu.Unlock()
			time.Sleep(5 * time.Millisecond) //nolint:forbidigo // the work
			end()
		}
	})
	count := func(queue string) int { mu.Lock(); defer mu.Unlock(); return len(taken[queue]) }
	redistest.Eventually(t, 10*time.Second, "tasks of both masters", func() bool { return count(queues[0]) > 5 && count(queues[1]) > 5 })
	c.Masters[1].Freeze()
	before := count(queues[0])
	time.Sleep(1200 * time.Millisecond) //nolint:forbidigo // the master is slow
	if got := count(queues[0]) - before; got < 60 {
		t.Errorf("%d tasks of the other master in 1.2s; want more than 60 of 240", got)
	}
	c.Masters[1].Thaw()
	redistest.Eventually(t, 15*time.Second, "all tasks", func() bool { return count(queues[0]) == n && count(queues[1]) == n })
	mu.Lock()
	defer mu.Unlock()
	for queue, ids := range taken {
		for id, times := range ids {
			if times != 1 {
				t.Errorf("%s of %s was taken %d times; want once", id, queue, times)
			}
		}
	}
}

// What comes too late is put back, suspects too.
func TestRoundTrip_PutsBackSuspects(t *testing.T) {
	t.Parallel()
	b := setup(t, 4, map[string]int{"a": 1})
	b.enqueue("a", "suspect", "other")
	b.suspect("a", "suspect")
	trips := b.roundTrips(map[*queue]int{b.queues[0]: 2}, nil)
	b.send(t.Context(), trips[0])
	b.want("active", b.list(asynqx.ActiveKey("a")), []string{"other", "suspect"})
	b.putBack(t.Context(), trips[0].tasks())
	b.want("active, when they are back", b.list(asynqx.ActiveKey("a")), []string{})
	b.want("pending", b.list(asynqx.PendingKey("a")), []string{"other", "suspect"})
}
