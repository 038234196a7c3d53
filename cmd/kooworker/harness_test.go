package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
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

// fakeAPI is a KooDrive that counts: what was asked for, what was done, and what is
// in flight. The chaos tests compare everything with its counts.
type fakeAPI struct {
	*httptest.Server
	delay atomic.Int64 // how long a call takes
	down  atomic.Bool  // it answers 503

	mu       sync.Mutex
	calls    map[string]int  // by target, including those that were answered 503
	done     map[string]int  // by target: executions that were answered
	inFlight map[string]bool // targets whose call is not answered yet
	total    int
}

func newFakeAPI(t *testing.T, delay time.Duration) *fakeAPI {
	t.Helper()
	l := &fakeAPI{calls: map[string]int{}, done: map[string]int{}, inFlight: map[string]bool{}}
	l.delay.Store(int64(delay))
	l.Server = httptest.NewServer(l)
	t.Cleanup(l.Close)
	return l
}

func (l *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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
		case <-r.Context().Done(): // the caller is dead, so nothing is done
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

func (l *fakeAPI) targetsInFlight() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[string]bool, len(l.inFlight))
	for target := range l.inFlight {
		out[target] = true
	}
	return out
}

// executed returns how many targets were done, and which of them more than once.
func (l *fakeAPI) executed() (targets int, twice map[string]bool) {
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

// producer enqueues unbinds, and remembers those that Redis acknowledged.
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

// newReplicatedProducer counts a task only when so many replicas have acknowledged it.
func newReplicatedProducer(t *testing.T, rdb redis.UniversalClient, replicas int) *producer {
	t.Helper()
	client, err := enqueue.New(enqueue.Config{Redis: rdb, MinReplicas: replicas})
	if err != nil {
		t.Fatal(err)
	}
	return &producer{client: client, acked: map[string]bool{}}
}

func (p *producer) enqueue(ctx context.Context) error {
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

func (p *producer) enqueueMany(t *testing.T, n int) {
	t.Helper()
	for range n {
		if err := p.enqueue(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// stream enqueues so many tasks a second until it is stopped. It ignores errors.
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
				wg.Go(func() { _ = p.enqueue(ctx) }) // a task that was not acknowledged may be missing
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

// missing returns the acknowledged targets that were not done.
func (p *producer) missing(l *fakeAPI) (out []string) {
	for target := range p.acknowledged() {
		l.mu.Lock()
		if l.done[target] == 0 {
			out = append(out, target)
		}
		l.mu.Unlock()
	}
	return out
}

// outcomes says what became of the acknowledged tasks.
type outcomes struct {
	acknowledged, done, dead, lost, twice int
}

// awaitOutcomes waits until the queue is empty, and counts what became of each
// acknowledged task: done at the API, or dead with a reason, or lost.
func awaitOutcomes(t *testing.T, rdb redis.UniversalClient, p *producer, l *fakeAPI, within time.Duration) outcomes {
	t.Helper()
	inspector := asynq.NewInspectorFromRedisClient(rdb)
	redistest.Eventually(t, within, "the queue is empty", func() bool {
		return infoOf(t, inspector, tasks.QueueUnbind).Size == 0
	})
	dead := map[string]bool{}
	for letter, err := range deadletter.NewStore(rdb).List(t.Context(), deadletter.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if letter.Reason == "" {
			t.Errorf("%s is dead without a reason; want one", letter.ID)
		}
		dead[letter.Target] = true
	}
	_, twice := l.executed()
	a := outcomes{twice: len(twice), dead: len(dead)}
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

// chargedAttempts returns the sum of the attempts charged to outstanding unbinds.
func chargedAttempts(t *testing.T, rdb redis.UniversalClient) (n int) {
	t.Helper()
	inspector := asynq.NewInspectorFromRedisClient(rdb)
	for _, lane := range lanesOf(t, inspector, tasks.QueueUnbind) {
		for _, list := range []func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error){
			inspector.ListPendingTasks, inspector.ListActiveTasks, inspector.ListRetryTasks,
		} {
			infos, err := list(lane, asynq.PageSize(100_000))
			if err != nil {
				t.Fatal(err)
			}
			for _, info := range infos {
				n += info.Retried
			}
		}
	}
	return n
}

// lanesOf returns the lanes of a queue that asynq knows.
func lanesOf(t *testing.T, inspector *asynq.Inspector, queue string) []string {
	t.Helper()
	names, err := inspector.Queues()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(names, func(name string) bool { of, _ := tasks.SplitQueue(name); return of != queue })
}

// infoOf adds up the tasks of all lanes of a queue.
func infoOf(t *testing.T, inspector *asynq.Inspector, queue string) (sum asynq.QueueInfo) {
	t.Helper()
	for _, lane := range lanesOf(t, inspector, queue) {
		info, err := inspector.GetQueueInfo(lane)
		if err != nil {
			t.Fatal(err)
		}
		sum.Size, sum.Pending, sum.Active = sum.Size+info.Size, sum.Pending+info.Pending, sum.Active+info.Active
	}
	return sum
}
