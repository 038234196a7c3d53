package worker_test

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx/wrongclock"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/worker"
)

// slowCall is how long a slow call takes.
const slowCall = 4 * time.Second

// calls is a KooDrive that counts the calls of each device. Every tenth call is slow.
type calls struct {
	mu      sync.Mutex
	running map[string]int
	done    map[string]int
	twice   []string // called while another call for the same device ran
	total   int
}

func (c *calls) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	target := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	c.mu.Lock()
	c.total++
	took := 20 * time.Millisecond
	if c.total%10 == 0 {
		took = slowCall
	}
	if c.running[target]++; c.running[target] > 1 {
		c.twice = append(c.twice, target)
	}
	c.mu.Unlock()
	<-time.After(took)
	c.mu.Lock()
	c.running[target]--
	c.done[target]++
	c.mu.Unlock()
	_, _ = w.Write([]byte(done.body))
}

// TestWorker_ClockJumpsBesideARightOne lets the clock of one of two workers jump while
// both are busy. That worker takes no more tasks and says so, nobody takes away those
// that it has, and it continues when its clock is right again.
func TestWorker_ClockJumpsBesideARightOne(t *testing.T) {
	t.Parallel()
	for name, jump := range map[string]time.Duration{"behind": -10 * time.Minute, "ahead": 10 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const n = 4000
			api := &calls{running: map[string]int{}, done: map[string]int{}}
			var mu sync.Mutex
			byWrong := 0
			taken := func() int { mu.Lock(); defer mu.Unlock(); return byWrong }
			url := newServer(t, api)
			b := setup(t, url)
			b.cfg.Concurrency, b.cfg.MaxCrashes = 64, 1
			wrong := *b
			wrong.logs = &redistest.Buffer{}
			wrong.cfg.Logger, wrong.cfg.Registry, wrong.cfg.AdminAddr = debugLog(wrong.logs), prometheus.NewRegistry(), "127.0.0.1:0"
			wrong.cfg.KooDrive.BaseURL = newServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				byWrong++
				mu.Unlock()
				api.ServeHTTP(w, r)
			}))
			clock := wrongclock.New(0)
			wrong.cfg.Redis = func() redis.UniversalClient {
				rdb := redis.NewClient(b.rdb.Options())
				rdb.AddHook(clock)
				return rdb
			}
			for i := range n {
				b.enqueue(unbindTask(i))
			}
			w, _ := wrong.start()
			redistest.Eventually(t, 10*time.Second, "it takes tasks", func() bool { return taken() > 100 })
			b.start()
			clock.Set(jump)
			redistest.Eventually(t, 5*time.Second, "it is not ready, because of its clock", func() bool { return strings.Contains(readyz(t, w), " Redis' clock; want at most 5s") })
			<-time.After(slowCall + time.Second) // those that were ready begin when slow calls end
			before := taken()
			b.awaitSettled()
			if after := taken(); after != before {
				t.Errorf("it made %d calls after it had noticed; want none", after-before)
			}
			api.mu.Lock()
			if len(api.twice) != 0 {
				t.Errorf("called while another call for the same device ran: %v; want none", api.twice)
			}
			for target, times := range api.done {
				if times != 1 {
					t.Errorf("%s was done %d times; want once", target, times)
				}
			}
			if dead := b.dead(); len(dead) != 0 || len(api.done) != n {
				t.Errorf("%d of %d done, and dead: %v; want all, and none", len(api.done), n, dead)
			}
			api.mu.Unlock()
			clock.Set(0)
			redistest.Eventually(t, 5*time.Second, "it is ready again", func() bool { return strings.Contains(readyz(t, w), `"clock":"ok"`) })
			for line, want := range map[string]int{"clock is not Redis' clock": 1, "clock is right again": 1} {
				if got := strings.Count(wrong.logs.String(), line); got != want {
					t.Errorf("the log says %d times %q; want %d", got, line, want)
				}
			}
		})
	}
}

// TestWorker_WrongClockForwardsNothing starts a worker whose clock is an hour ahead: it
// starts, takes nothing, and does not end the waits of others.
func TestWorker_WrongClockForwardsNothing(t *testing.T) {
	t.Parallel()
	api := newStandIn(t, always(done))
	b := setup(t, api.URL)
	b.cfg.AdminAddr = "127.0.0.1:0"
	b.cfg.Redis = func() redis.UniversalClient {
		rdb := redis.NewClient(b.rdb.Options())
		rdb.AddHook(wrongclock.New(time.Hour))
		return rdb
	}
	b.enqueue(unbindTask(1))
	if err := b.rdb.ZAdd(t.Context(), "asynq:{unbind}:retry", redis.Z{Score: float64(time.Now().Add(30 * time.Minute).Unix()), Member: "waits"}).Err(); err != nil {
		t.Fatal(err)
	}
	w, _ := b.start()
	redistest.Eventually(t, 10*time.Second, "an answer", func() bool { return strings.Contains(readyz(t, w), "1h0m0s ahead") })
	<-time.After(3 * time.Second) // in which it would take or forward something
	if requests, _, _ := api.snapshot(); len(requests) != 0 {
		t.Errorf("%d calls; want none", len(requests))
	}
	if n := b.rdb.ZCard(t.Context(), "asynq:{unbind}:retry").Val(); n != 1 {
		t.Errorf("%d tasks wait; want the one whose time has not come", n)
	}
}

func readyz(t *testing.T, w *worker.Worker) string {
	t.Helper()
	if w.AdminAddr() == "" {
		return ""
	}
	resp, err := http.Get("http://" + w.AdminAddr() + "/readyz")
	if err != nil {
		return err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	return string(body)
}
