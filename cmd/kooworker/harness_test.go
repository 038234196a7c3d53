package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// ledger is a KooDrive that keeps account: of what was asked for, what was
// done, and what is being worked on. The checker of the chaos tests believes it
// and nothing else.
type ledger struct {
	*httptest.Server
	delay atomic.Int64 // how long a call takes
	down  atomic.Bool  // answers 503

	mu       sync.Mutex
	calls    map[string]int  // by target, answered 503 or not
	done     map[string]int  // by target: executions that reached their answer
	inFlight map[string]bool // targets being worked on
	total    int
}

func newLedger(t *testing.T, delay time.Duration) *ledger {
	t.Helper()
	l := &ledger{calls: map[string]int{}, done: map[string]int{}, inFlight: map[string]bool{}}
	l.delay.Store(int64(delay))
	l.Server = httptest.NewServer(l)
	t.Cleanup(l.Close)
	return l
}

func (l *ledger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	target := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	l.mu.Lock()
	l.calls[target]++
	l.total++
	l.inFlight[target] = true
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.inFlight, target)
		l.mu.Unlock()
	}()
	if l.down.Load() {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if d := time.Duration(l.delay.Load()); d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done(): // the caller is dead: nothing was done
			return
		}
	}
	l.mu.Lock()
	l.done[target]++
	times := l.done[target]
	l.mu.Unlock()
	if times > 1 {
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"code":13000309,"msg":"resource doesn't exist"}`))
		return
	}
	_, _ = w.Write([]byte(`{"code":0,"msg":"success"}`))
}

func (l *ledger) flying() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[string]bool, len(l.inFlight))
	for target := range l.inFlight {
		out[target] = true
	}
	return out
}

// executed returns how many targets were done, and which of them twice or more.
func (l *ledger) executed() (targets int, twice map[string]bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	twice = map[string]bool{}
	for target, n := range l.done {
		if n > 1 {
			twice[target] = true
		}
	}
	return len(l.done), twice
}

// producer enqueues unbinds and remembers those that Redis acknowledged.
type producer struct {
	client *enqueue.Client
	prefix string // of its targets
	mu     sync.Mutex
	acked  map[string]bool
	next   int
}

func newProducer(t *testing.T, rdb redis.UniversalClient) *producer {
	t.Helper()
	return newReplicatedProducer(t, rdb, 0)
}

// newReplicatedProducer counts only what so many replicas have acknowledged.
func newReplicatedProducer(t *testing.T, rdb redis.UniversalClient, replicas int) *producer {
	t.Helper()
	client, err := enqueue.New(enqueue.Config{Redis: rdb, MinReplicas: replicas})
	if err != nil {
		t.Fatal(err)
	}
	return &producer{client: client, acked: map[string]bool{}}
}

func (p *producer) one(ctx context.Context) error {
	p.mu.Lock()
	p.next++
	target := fmt.Sprint(p.prefix, "d-", p.next)
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err := p.client.Unbind(ctx, tasks.DeviceUnbind{UserID: "u", DeviceID: target})
	if err == nil {
		p.mu.Lock()
		p.acked[target] = true
		p.mu.Unlock()
	}
	return err
}

func (p *producer) many(t *testing.T, n int) {
	t.Helper()
	for range n {
		if err := p.one(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// stream enqueues so many a second until it is stopped, whatever fails.
func (p *producer) stream(ctx context.Context, perSecond int) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(perSecond))
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				wg.Go(func() { _ = p.one(ctx) }) // what was not acknowledged is not owed
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

func (p *producer) acknowledged() map[string]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[string]bool, len(p.acked))
	for target := range p.acked {
		out[target] = true
	}
	return out
}

// account is what became of what was acknowledged.
type account struct {
	acknowledged, done, dead, lost, twice int
}

// settleAccounts waits until the queues are empty and says what became of each
// task that was acknowledged: done at the API, or dead with a reason, or lost.
func settleAccounts(t *testing.T, rdb redis.UniversalClient, p *producer, l *ledger, within time.Duration) account {
	t.Helper()
	inspector := asynq.NewInspectorFromRedisClient(rdb)
	redistest.Eventually(t, within, "the queues are empty", func() bool {
		info, err := inspector.GetQueueInfo(tasks.QueueUnbind)
		return err == nil && info.Size == 0
	})
	dead := map[string]bool{}
	for letter, err := range deadletter.NewStore(rdb).List(t.Context(), deadletter.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if letter.Reason == "" {
			t.Errorf("%s is dead without a reason", letter.ID)
		}
		dead[letter.Target] = true
	}
	_, twice := l.executed()
	a := account{twice: len(twice), dead: len(dead)}
	for target := range p.acknowledged() {
		a.acknowledged++
		l.mu.Lock()
		done := l.done[target] > 0
		l.mu.Unlock()
		switch {
		case done:
			a.done++
		case !dead[target]:
			a.lost++
		}
	}
	t.Logf("%d acknowledged: %d done, %d dead, %d lost; %d done more than once", a.acknowledged, a.done, a.dead, a.lost, a.twice)
	return a
}

// charged sums the attempts that are charged to outstanding unbinds.
func charged(t *testing.T, rdb redis.UniversalClient) (n int) {
	t.Helper()
	inspector := asynq.NewInspectorFromRedisClient(rdb)
	for _, list := range []func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error){
		inspector.ListPendingTasks, inspector.ListActiveTasks, inspector.ListRetryTasks,
	} {
		infos, err := list(tasks.QueueUnbind, asynq.PageSize(100_000))
		if err != nil {
			t.Fatal(err)
		}
		for _, info := range infos {
			n += info.Retried
		}
	}
	return n
}
