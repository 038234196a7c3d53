package fetch

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a Fetcher on a Redis of its own.
type bench struct {
	*Fetcher
	t      *testing.T
	server *redistest.Server
	rdb    *redis.Client
	held   atomic.Pointer[string]
	halt   atomic.Bool
}

func setup(t *testing.T, slots int, queues map[string]int, redisArgs ...string) *bench {
	t.Helper()
	b := &bench{t: t, server: redistest.Start(t, redisArgs...)}
	b.rdb = b.server.Client()
	b.Fetcher = New(Config{
		Redis: b.rdb, Queues: queues, Slots: slots, Poll: 10 * time.Millisecond, Logger: zap.NewNop(),
		Hold: func(queue string) bool { held := b.held.Load(); return held != nil && *held == queue }, Halt: b.halt.Load,
	})
	return b
}

// run fetches until the test ends, or until the function that it returns is called.
func (b *bench) run() (stop func()) {
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); b.Run(ctx) }()
	stop = func() { cancel(); <-done }
	b.t.Cleanup(stop)
	return stop
}

func (b *bench) enqueue(queue string, ids ...string) {
	b.t.Helper()
	client := asynq.NewClientFromRedisClient(b.rdb)
	for _, id := range ids {
		if _, err := client.EnqueueContext(b.t.Context(), asynq.NewTask("device:unbind", []byte("payload of "+id)), asynqx.TaskOptions(queue, id, time.Time{})...); err != nil {
			b.t.Fatal(err)
		}
	}
}

// suspect gives a task the mark of a suspect.
func (b *bench) suspect(queue, id string) {
	b.t.Helper()
	key := asynqx.TaskKey(queue, id)
	raw, err := asynqx.MarkSuspect([]byte(b.rdb.HGet(b.t.Context(), key, asynqx.FieldMsg).Val()))
	if err != nil {
		b.t.Fatal(err)
	}
	b.rdb.HSet(b.t.Context(), key, asynqx.FieldMsg, raw)
}

// next takes a task, and returns its ID.
func (b *bench) next() string {
	b.t.Helper()
	raw, ok := b.take()
	if !ok {
		return ""
	}
	m, err := asynqx.ParseMessage([]byte(raw))
	if err != nil {
		b.t.Fatal(err)
	}
	return m.ID
}

// done begins and ends a task that was taken.
func (b *bench) done() { b.Begin(false)() }

func (b *bench) list(key string) []string { return b.rdb.LRange(b.t.Context(), key, 0, -1).Val() }

func (b *bench) want(what string, got, want any) {
	b.t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		b.t.Errorf("%s: %v; want %v", what, got, want)
	}
}

func ids(prefix string, n int) (out []string) {
	for i := range n {
		out = append(out, prefix+strconv.Itoa(i))
	}
	return out
}

// What a Fetcher leaves in Redis is what asynq leaves there. If this fails with another
// asynq, read its internal/rdb again before anything else.
func TestFetch_LikeAsynq(t *testing.T) {
	t.Parallel()
	b := setup(t, 1, map[string]int{"ours": 1})
	started, finish := make(chan struct{}), make(chan struct{})
	srv := asynq.NewServerFromRedisClient(b.rdb, asynq.Config{
		Concurrency: 1, Queues: map[string]int{"theirs": 1}, LogLevel: asynq.FatalLevel, TaskCheckInterval: 10 * time.Millisecond,
	})
	if err := srv.Start(asynq.HandlerFunc(func(context.Context, *asynq.Task) error { close(started); <-finish; return nil })); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Shutdown)
	t.Cleanup(func() { close(finish) })
	for _, queue := range []string{"theirs", "ours"} {
		b.enqueue(queue, "x", "y")
	}
	<-started
	b.run()
	b.want("the first task", b.next(), "x")

	// look returns what Redis holds of a queue, without what tells the two queues apart.
	look := func(queue string) string {
		lease := b.rdb.ZRangeWithScores(t.Context(), asynqx.LeaseKey(queue), 0, -1).Val()
		for i := range lease { // a heartbeat may have extended one of them
			if left := time.Until(time.Unix(int64(lease[i].Score), 0)); left < 20*time.Second || left > 31*time.Second {
				t.Errorf("%s: a lease of %s; want about 30s", queue, left)
			}
			lease[i].Score = 0
		}
		fields := func(id string) []string {
			return slices.Sorted(maps.Keys(b.rdb.HGetAll(t.Context(), asynqx.TaskKey(queue, id)).Val()))
		}
		state := b.rdb.HGet(t.Context(), asynqx.TaskKey(queue, "x"), asynqx.FieldState).Val()
		return fmt.Sprint("pending ", b.list(asynqx.PendingKey(queue)), ", active ", b.list(asynqx.ActiveKey(queue)), ", lease ", lease,
			", x is ", state, " and has ", fields("x"), ", y has ", fields("y"), "; keys: ", len(b.rdb.Keys(t.Context(), "asynq:{"+queue+"}:*").Val()))
	}
	b.want("what is left in Redis", look("ours"), look("theirs"))
}

// A server that asks the Fetcher runs all tasks of all queues, each once.
func TestHook_ServesAsynq(t *testing.T) {
	t.Parallel()
	const n = 2000
	b := setup(t, 16, map[string]int{"a": 3, "b": 2, "c": 1})
	b.enqueue("a", ids("a", n)...)
	b.enqueue("b", ids("b", n/2)...)
	b.enqueue("c", ids("c", n/4)...)
	rdb := redis.NewClient(b.rdb.Options())
	t.Cleanup(func() { _ = rdb.Close() })
	rdb.AddHook(b.Hook())
	rdb.AddHook(asynqx.CoalesceHook(rdb))
	var mu sync.Mutex
	runs := make(map[string]int)
	srv := asynq.NewServerFromRedisClient(rdb, asynq.Config{Concurrency: 16, Queues: b.cfg.Queues, LogLevel: asynq.FatalLevel})
	if err := srv.Start(asynq.HandlerFunc(func(ctx context.Context, _ *asynq.Task) error {
		defer b.done()
		id, _ := asynq.GetTaskID(ctx)
		mu.Lock()
		defer mu.Unlock()
		runs[id]++
		return nil
	})); err != nil {
		t.Fatal(err)
	}
	stop := b.run()
	redistest.Eventually(t, 30*time.Second, "all tasks", func() bool { mu.Lock(); defer mu.Unlock(); return len(runs) == n+n/2+n/4 })
	stop()
	b.Close(t.Context())
	srv.Shutdown()
	for id, times := range runs {
		if times != 1 {
			t.Errorf("%s ran %d times; want once", id, times)
		}
	}
	for q := range b.cfg.Queues {
		b.want("the tasks that are left in "+q, b.rdb.Exists(t.Context(), asynqx.PendingKey(q), asynqx.ActiveKey(q), asynqx.LeaseKey(q)).Val(), 0)
	}
}

// At a stop the tasks that were not begun are where they were.
func TestClose_PutsBack(t *testing.T) {
	t.Parallel()
	b := setup(t, 8, map[string]int{"a": 1, "b": 1})
	b.enqueue("a", ids("a", 6)...)
	b.enqueue("b", ids("b", 6)...)
	before := [][]string{b.list(asynqx.PendingKey("a")), b.list(asynqx.PendingKey("b"))}
	stop := b.run()
	redistest.Eventually(t, 10*time.Second, "eight tasks here", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return len(b.ready) == 8 })
	stop()
	taken := b.next()
	b.rdb.LRem(t.Context(), asynqx.ActiveKey("a"), 0, "a3") // somebody else has put it back, perhaps
	b.Close(t.Context())
	b.want("a task after the end", b.next(), "")
	for i, q := range []string{"a", "b"} {
		left := slices.DeleteFunc(before[i], func(id string) bool { return id == taken || id == "a3" })
		b.want("pending in "+q, b.list(asynqx.PendingKey(q)), left)
		for _, id := range left {
			b.want("the state of "+id, b.rdb.HGet(t.Context(), asynqx.TaskKey(q, id), asynqx.FieldState).Val(), "pending")
			if since, _ := b.rdb.HGet(t.Context(), asynqx.TaskKey(q, id), "pending_since").Int64(); time.Since(time.Unix(0, since)).Abs() > time.Minute {
				t.Errorf("%s is pending since %d; want about now, in ns", id, since)
			}
		}
	}
	b.want("active", append(b.list(asynqx.ActiveKey("a")), b.list(asynqx.ActiveKey("b"))...), []string{taken})
	b.want("leases of tasks that are back", len(b.rdb.ZRange(t.Context(), asynqx.LeaseKey("a"), 0, -1).Val())+len(b.rdb.ZRange(t.Context(), asynqx.LeaseKey("b"), 0, -1).Val()), 2)
}

// Nothing is taken from a queue that is paused or held.
func TestFetch_LeavesQueuesAlone(t *testing.T) {
	t.Parallel()
	b := setup(t, 4, map[string]int{"open": 1, "paused": 5, "held": 5})
	held := "held"
	b.held.Store(&held)
	if err := asynq.NewInspectorFromRedisClient(b.rdb).PauseQueue("paused"); err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{"paused", "held", "open"} {
		b.enqueue(q, q+"-1", q+"-2")
	}
	b.run()
	b.want("the tasks", []string{b.next(), b.next(), b.next()}, []string{"open-1", "open-2", ""})
	b.want("pending", append(b.list(asynqx.PendingKey("paused")), b.list(asynqx.PendingKey("held"))...), []string{"paused-2", "paused-1", "held-2", "held-1"})
	b.held.Store(nil)
	b.want("a task of the queue that was held", b.next(), "held-1")
	if err := asynq.NewInspectorFromRedisClient(b.rdb).UnpauseQueue("paused"); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		b.done()
	}
	got := []string{b.next(), b.next(), b.next()}
	slices.Sort(got)
	b.want("the tasks that are left", got, []string{"held-2", "paused-1", "paused-2"})
}

// Calls that take long must not find tasks that have waited here for long.
func TestFetch_WaitsForSlots(t *testing.T) {
	t.Parallel()
	b := setup(t, 8, map[string]int{"a": 1})
	b.enqueue("a", ids("a", 100)...)
	b.run()
	for range 8 {
		b.next()
		b.Begin(false)
	}
	redistest.Eventually(t, 10*time.Second, "no more than 8 tasks are active", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.ready) == 0 && b.all.sum() == 8
	})
	for range 20 {
		time.Sleep(20 * time.Millisecond) //nolint:forbidigo // no further task may be fetched in this time
		if n := len(b.list(asynqx.ActiveKey("a"))); n != 8 {
			t.Fatalf("%d tasks are active while all 8 slots are taken; want 8", n)
		}
	}
	b.end(false, time.Second)
	b.want("the next task", b.next(), "a8")
}

// The more tasks end in a second, the more are here.
func TestFetch_AheadOfFastCalls(t *testing.T) {
	t.Parallel()
	b := setup(t, 8, map[string]int{"a": 1})
	b.enqueue("a", ids("a", 3000)...)
	var trips atomic.Int64
	b.rdb.AddHook(countPipelines{&trips})
	b.run()
	for range 3000 {
		if b.next() == "" {
			t.Fatal("no task for a second; want 3,000 tasks")
		}
		b.done()
	}
	if n := trips.Load(); n > 600 {
		t.Errorf("%d round trips for 3,000 tasks; want far fewer", n)
	}
}

type countPipelines struct{ n *atomic.Int64 }

func (countPipelines) DialHook(next redis.DialHook) redis.DialHook { return next }

func (countPipelines) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (c countPipelines) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.n.Add(1)
		return next(ctx, cmds)
	}
}

// A task that has waited here too long is put back, so that another worker can take it.
func TestFetch_PutsBackWhatWaits(t *testing.T) {
	t.Parallel()
	b := setup(t, 4, map[string]int{"a": 1})
	b.enqueue("a", ids("a", 4)...)
	stop := b.run()
	redistest.Eventually(t, 10*time.Second, "four tasks here", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return len(b.ready) == 4 })
	stop()
	b.mu.Lock()
	for i := range 3 {
		b.ready[i].at = b.ready[i].at.Add(-mostWait)
	}
	b.mu.Unlock()
	b.rdb.ZAdd(t.Context(), asynqx.LeaseKey("a"), redis.Z{Score: float64(time.Now().Add(time.Hour).Unix()), Member: "a1"})
	b.want("a task while those that are here are old", b.next(), "")
	b.putBackOld(t.Context())
	b.want("pending, without the one that somebody else has", b.list(asynqx.PendingKey("a")), []string{"a2", "a0"})
	b.want("the task that is here", b.next(), "a3")
}

// While no task may be begun, none is here.
func TestFetch_Halts(t *testing.T) {
	t.Parallel()
	b := setup(t, 4, map[string]int{"a": 1})
	b.enqueue("a", ids("a", 6)...)
	b.run()
	b.want("the first task", b.next(), "a0")
	b.halt.Store(true)
	redistest.Eventually(t, 10*time.Second, "all others are back", func() bool { return len(b.list(asynqx.PendingKey("a"))) == 5 })
	b.want("a task in the halt", b.next(), "")
	b.halt.Store(false)
	b.want("the task after it", b.next(), "a1")
}

// asynq may end a task without its handler. That must not use up the slots for ever.
func TestFetch_TasksWithoutAnEnd(t *testing.T) {
	t.Parallel()
	b := setup(t, 4, map[string]int{"a": 1})
	b.enqueue("a", ids("a", 20)...)
	b.run()
	for i := range 8 {
		id := b.next()
		if id == "" { // after four that do not begin
			id = b.next()
		}
		b.want("the next task", id, "a"+strconv.Itoa(i))
	}
}

// Suspects of a crash run one after the other. Meanwhile all else passes them.
func TestFetch_PassesSuspects(t *testing.T) {
	t.Parallel()
	b := setup(t, 8, map[string]int{"a": 1})
	suspects := ids("suspect", 4)
	b.enqueue("a", suspects...)
	for _, id := range suspects {
		b.suspect("a", id)
	}
	b.enqueue("a", ids("a", 20)...)
	stop := b.run()
	redistest.Eventually(t, 10*time.Second, "all suspects and eight tasks here", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.suspects) == 4 && len(b.ready) >= 4
	})
	b.want("the first four tasks", []string{b.next(), b.next(), b.next(), b.next()}, []string{"suspect0", "suspect1", "a0", "a1"})
	end := b.Begin(true)
	b.want("the next task", b.next(), "a2")
	end()
	end() // the second time it does nothing
	b.want("the next two, when the first suspect has ended", []string{b.next(), b.next()}, []string{"suspect2", "a3"})
	for _, z := range b.rdb.ZRangeWithScores(t.Context(), asynqx.LeaseKey("a"), 0, -1).Val() {
		if id, _ := z.Member.(string); (z.Score == math.Floor(z.Score)) != strings.HasPrefix(id, "suspect") {
			t.Errorf("the lease of %s ends at %f; want whole seconds for suspects alone", id, z.Score)
		}
	}
	stop()
	b.Close(t.Context())
	b.want("the last suspect is back", slices.Contains(b.list(asynqx.PendingKey("a")), "suspect3"), true)
}

// Every queue gets its share of the tasks, by its weight, however few are fetched at a time.
func TestShare_ByWeight(t *testing.T) {
	t.Parallel()
	f := New(Config{Queues: map[string]int{"a": 6, "b": 3, "c": 1, "held": 9}, Hold: func(q string) bool { return q == "held" }})
	for _, n := range []int{1, 7, 250} {
		got := make(map[string]int)
		for range 100 {
			take, _ := f.share(n)
			for q, k := range take {
				got[q.name] += k
			}
		}
		for q, share := range map[string]float64{"a": .6, "b": .3, "c": .1, "held": 0} {
			if k := float64(got[q]) / float64(100*n); math.Abs(k-share) > .03 {
				t.Errorf("%d at a time: queue %s gets %.2f; want %.2f", n, q, k, share)
			}
		}
	}
	for _, q := range f.queues {
		q.isEmpty = q.name == "a" || q.name == "b"
	}
	take, look := f.share(40)
	for q, k := range take {
		if q.name != "c" || k != 40 {
			t.Errorf("two queues are empty: %d of %s; want all 40 of c", k, q.name)
		}
	}
	if len(look) != 2 {
		t.Errorf("%d queues are looked into; want the two that were empty", len(look))
	}
}

// Eight queues of equal weight take turns: what begins first is as much of each.
func TestFetch_TakesTurns(t *testing.T) {
	t.Parallel()
	queues := make(map[string]int)
	for i := range 8 {
		queues["lane-"+strconv.Itoa(i)] = 1
	}
	b := setup(t, 16, queues)
	for q := range queues {
		b.enqueue(q, ids(q+"-", 200)...)
	}
	b.run()
	begun := make(map[string]int)
	for range 400 {
		id := b.next()
		b.done()
		begun[id[:len("lane-0")]]++
	}
	sum, squares := 0.0, 0.0
	for q := range queues {
		sum += float64(begun[q])
		squares += float64(begun[q] * begun[q])
	}
	if jain := sum * sum / (float64(len(queues)) * squares); jain < .95 {
		t.Errorf("Jain's index of the first 400 tasks is %.3f of %v; want at least 0.95", jain, begun)
	}
}

// A Redis that comes back without scripts, or that is away for a while, stops nothing.
func TestFetch_OutlastsRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes")
	b := &bench{t: t, rdb: server.Client()}
	b.Fetcher = New(Config{Redis: b.rdb, Queues: map[string]int{"a": 1}, Slots: 1, Poll: 10 * time.Millisecond, Hold: func(string) bool { return false }, Halt: b.halt.Load, Logger: zap.NewNop()})
	b.enqueue("a", ids("a", 3)...)
	b.run()
	b.want("the first task", b.next(), "a0")
	b.rdb.ScriptFlush(t.Context())
	b.done()
	b.want("the task after the scripts are lost", b.next(), "a1")
	server.Kill()
	b.done()
	b.want("a task while Redis is away", b.next(), "")
	server.Restart()
	redistest.Eventually(t, 20*time.Second, "the third task", func() bool { return b.next() == "a2" })
}

// The more tasks end in a second, the more get ready for the next free slot. If calls are
// long, none does.
func TestFetch_GetsReadyForShortCalls(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		rate float64 // at the moment
		took time.Duration
		want int
	}{
		{0.8, 10 * time.Second, 8},
		{60, 130 * time.Millisecond, 8},
		{5000, 1600 * time.Microsecond, 78},
		{5000, 0, 78},                   // none has ended yet
		{5000, 10 * time.Second, 8},     // many have ended at the same moment
		{60, 500 * time.Microsecond, 8}, // there is not much to do
	} {
		b := setup(t, 8, map[string]int{"a": 1})
		b.enqueue("a", ids("a", 90)...)
		b.rate, b.took, b.endedAt = tc.rate, tc.took, time.Now().Add(time.Hour) // the rate is not measured again
		b.run()
		n := 0
		for b.next() != "" {
			b.Begin(false)
			n++
		}
		b.want(fmt.Sprintf("tasks at once, at %v a second that took %v", tc.rate, tc.took), n, tc.want)
	}
}

// The mean follows the latest tasks.
func TestEnd_MeasuresDurations(t *testing.T) {
	t.Parallel()
	f := New(Config{Queues: map[string]int{"a": 1}, Slots: 8})
	f.end(false, 10*time.Second)
	if f.took != 10*time.Second {
		t.Errorf("after the first task: %v; want its 10s", f.took)
	}
	for range 1000 {
		f.end(false, 10*time.Millisecond)
	}
	if f.took < 9*time.Millisecond || f.took > 15*time.Millisecond {
		t.Errorf("after 1,000 tasks of 10 ms: %v; want about 10ms", f.took)
	}
}
