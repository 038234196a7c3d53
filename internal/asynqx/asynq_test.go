package asynqx

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The tests of this file fail when another asynq writes something else than this
// package assumes. Then read asynq's internal/base, internal/rdb and
// internal/proto again before anything else.

// pin is a Redis with a client of asynq's, and the names of one queue's keys.
type pin struct {
	t     *testing.T
	rdb   *redis.Client
	queue string
}

func newPin(t *testing.T) pin {
	t.Helper()
	return pin{t: t, rdb: redistest.Start(t).Client(), queue: "unbind"}
}

// enqueue lets asynq enqueue a task with our options.
func (p pin) enqueue(id string, runAt time.Time) {
	p.t.Helper()
	_, err := asynq.NewClientFromRedisClient(p.rdb).EnqueueContext(p.t.Context(), p.task(id), TaskOptions(p.queue, id, runAt)...)
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p pin) task(id string) *asynq.Task {
	return asynq.NewTaskWithHeaders("device:unbind", []byte("payload of "+id), map[string]string{"h": id})
}

func (p pin) fields(id string) []string {
	return slices.Sorted(maps.Keys(p.rdb.HGetAll(p.t.Context(), TaskKey(p.queue, id)).Val()))
}

func (p pin) field(id, name string) string {
	return p.rdb.HGet(p.t.Context(), TaskKey(p.queue, id), name).Val()
}

func (p pin) list(key string) []string { return p.rdb.LRange(p.t.Context(), key, 0, -1).Val() }

func (p pin) set(key string) []string { return p.rdb.ZRange(p.t.Context(), key, 0, -1).Val() }

func (p pin) want(what string, got []string, want ...string) {
	p.t.Helper()
	if !slices.Equal(got, want) {
		p.t.Errorf("%s: %q; want %q", what, got, want)
	}
}

func (p pin) wantState(id, state string) {
	p.t.Helper()
	p.want("the state of "+id, []string{p.field(id, FieldState)}, state)
}

func (p pin) wantTrue(what string, ok bool) {
	p.t.Helper()
	if !ok {
		p.t.Errorf("%s: no; want yes", what)
	}
}

// TestKeys_Waiting drives tasks through asynq's client and inspector.
func TestKeys_Waiting(t *testing.T) {
	t.Parallel()
	p, ctx := newPin(t), t.Context()
	inspector := asynq.NewInspectorFromRedisClient(p.rdb)
	p.enqueue("p1", time.Time{})
	p.enqueue("p2", time.Now())
	p.enqueue("s", time.Now().Add(time.Hour))
	p.want("pending, the next one at the right", p.list(PendingKey(p.queue)), "p2", "p1")
	p.want("the fields of a pending hash", p.fields("p1"), FieldMsg, "pending_since", FieldState)
	since, _ := strconv.ParseInt(p.field("p1", "pending_since"), 10, 64)
	p.wantTrue("pending_since is in ns", time.Since(time.Unix(0, since)).Abs() < time.Minute)
	p.wantState("p1", "pending")
	p.want("scheduled", p.set(ScheduledKey(p.queue)), "s")
	p.wantState("s", "scheduled")
	p.want("the queues", p.rdb.SMembers(ctx, AllQueuesKey).Val(), p.queue)

	info, err := inspector.GetTaskInfo(p.queue, "p1")
	if err != nil || info.MaxRetry != tasks.MaxRetry || info.Timeout != tasks.Timeout {
		t.Errorf("asynq shows %+v, %v; want our limits of retries and time", info, err)
	}
	if err := inspector.ArchiveTask(p.queue, "p2"); err != nil {
		t.Fatal(err)
	}
	p.want("archived", p.set(ArchivedKey(p.queue)), "p2")
	p.wantState("p2", "archived")
	if err := inspector.PauseQueue(p.queue); err != nil {
		t.Fatal(err)
	}
	p.wantTrue("the key of a paused queue exists", p.rdb.Exists(ctx, PausedKey(p.queue)).Val() == 1)
	if err := inspector.UnpauseQueue(p.queue); err != nil {
		t.Fatal(err)
	}
	p.wantTrue("the key of a queue that is no longer paused is gone", p.rdb.Exists(ctx, PausedKey(p.queue)).Val() == 0)
}

// TestKeys_Running looks at what a server writes while a task runs, and at what it
// writes when the task has failed, has succeeded, or is kept.
func TestKeys_Running(t *testing.T) {
	t.Parallel()
	p, ctx := newPin(t), t.Context()
	started, finish := make(chan struct{}), make(chan error)
	srv := asynq.NewServerFromRedisClient(p.rdb, asynq.Config{
		Concurrency: 1, Queues: map[string]int{p.queue: 1}, LogLevel: asynq.FatalLevel, TaskCheckInterval: 10 * time.Millisecond,
		RetryDelayFunc: func(int, error, *asynq.Task) time.Duration { return time.Hour },
	})
	if err := srv.Start(asynq.HandlerFunc(func(context.Context, *asynq.Task) error {
		started <- struct{}{}
		return <-finish
	})); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Shutdown)

	p.enqueue("x", time.Time{})
	<-started
	now := time.Now()
	p.want("active", p.list(ActiveKey(p.queue)), "x")
	p.wantState("x", "active")
	p.want("the fields of an active hash", p.fields("x"), FieldMsg, FieldState)
	lease := p.rdb.ZScore(ctx, LeaseKey(p.queue), "x").Val()
	p.wantTrue("the lease lasts 30 s", time.Unix(int64(lease), 0).Sub(now.Add(LeaseTTL)).Abs() < 3*time.Second)
	servers := p.rdb.ZRangeWithScores(ctx, AllServersKey, 0, -1).Val()
	if len(servers) != 1 {
		t.Fatalf("servers: %v; want one", servers)
	}
	name, _ := servers[0].Member.(string)
	p.wantTrue("the list of what servers work on is like that of the servers", p.rdb.ZCard(ctx, AllWorkersKey).Val() == 1)
	p.wantTrue("a server's key has a hash tag", strings.HasPrefix(name, "asynq:servers:{"))
	p.want("the server's process", []string{ServerProcess(name)}, ThisProcess())
	redistest.Eventually(t, 10*time.Second, "the server to list its task", func() bool {
		return slices.Equal(p.rdb.HKeys(ctx, ServerTasksKey(name)).Val(), []string{"x"})
	})
	p.wantTrue("the list of tasks expires by Redis' clock", p.rdb.TTL(ctx, ServerTasksKey(name)).Val() > 0)
	p.wantTrue("the info expires by Redis' clock", p.rdb.TTL(ctx, name).Val() > 0)
	p.wantTrue("the heartbeat lasts 10 s", time.Unix(int64(servers[0].Score), 0).Sub(now.Add(HeartbeatTTL)).Abs() < 3*time.Second)
	info, err := p.rdb.Get(ctx, name).Bytes()
	isClosing, slots := ParseServer(info)
	p.wantTrue("the server is active", err == nil && strings.Contains(string(info), "active") && !isClosing && slots == 1)

	finish <- errors.New("forbidden: no")
	redistest.Eventually(t, 10*time.Second, "the task in retry", func() bool { return slices.Equal(p.set(RetryKey(p.queue)), []string{"x"}) })
	p.wantState("x", "retry")
	p.wantTrue("a task that failed has no lease", len(p.set(LeaseKey(p.queue))) == 0)
	msg, err := ParseMessage([]byte(p.field("x", FieldMsg)))
	p.wantTrue("the message tells of the failure", err == nil && msg.ID == "x" && msg.Queue == p.queue && msg.Kind == "device:unbind" &&
		msg.Retried == 1 && msg.ErrorMsg == "forbidden: no" && string(msg.Payload) == "payload of x" && msg.LastFailedAt > 0)

	p.enqueue("done", time.Time{})
	<-started
	finish <- nil
	redistest.Eventually(t, 10*time.Second, "no trace of a task that is done", func() bool {
		return p.rdb.Exists(ctx, TaskKey(p.queue, "done"), ActiveKey(p.queue), LeaseKey(p.queue)).Val() == 0
	})

	client := asynq.NewClientFromRedisClient(p.rdb)
	if _, err := client.EnqueueContext(ctx, p.task("kept"), append(TaskOptions(p.queue, "kept", time.Time{}), asynq.Retention(time.Hour))...); err != nil {
		t.Fatal(err)
	}
	<-started
	finish <- nil
	redistest.Eventually(t, 10*time.Second, "the task completed", func() bool { return slices.Equal(p.set(CompletedKey(p.queue)), []string{"kept"}) })
	p.wantState("kept", "completed")

	srv.Shutdown()
	p.wantTrue("a server that stopped is off the list", p.rdb.ZCard(ctx, AllServersKey).Val() == 0)
}

// TestKeys_Scheduler looks at what a scheduler writes.
func TestKeys_Scheduler(t *testing.T) {
	t.Parallel()
	p, ctx := newPin(t), t.Context()
	scheduler := asynq.NewSchedulerFromRedisClient(p.rdb, &asynq.SchedulerOpts{HeartbeatInterval: time.Second, LogLevel: asynq.FatalLevel})
	entry, err := scheduler.Register("@every 1s", p.task("x"), asynq.Queue(p.queue))
	if err != nil {
		t.Fatal(err)
	}
	if err := scheduler.Start(); err != nil {
		t.Fatal(err)
	}
	var events []redis.Z
	redistest.Eventually(t, 10*time.Second, "a heartbeat and an event", func() bool {
		events = p.rdb.ZRangeWithScores(ctx, SchedulerHistoryPrefix+entry, 0, -1).Val()
		return len(events) > 0 && p.rdb.ZCard(ctx, AllSchedulersKey).Val() == 1
	})
	p.wantTrue("an event is scored by its time", time.Since(time.Unix(int64(events[0].Score), 0)).Abs() < 5*time.Second)
	heartbeat := p.rdb.ZRangeWithScores(ctx, AllSchedulersKey, 0, 0).Val()[0].Score
	p.wantTrue("a heartbeat is scored by its end", time.Until(time.Unix(int64(heartbeat), 0)).Abs() < 10*time.Second)
	scheduler.Shutdown()
}

// TestScriptCapture_StoresWhatAsynqStores compares the tasks of captured scripts
// with tasks that asynq has enqueued itself.
func TestScriptCapture_StoresWhatAsynqStores(t *testing.T) {
	t.Parallel()
	p, ctx := newPin(t), t.Context()
	capture, later := NewScriptCapture(p.rdb), time.Now().Add(time.Hour)
	run := func(s Script) (int, error) {
		t.Helper()
		var cmd *redis.Cmd
		_, _ = p.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			cmd = s.EvalSha(ctx, pipe)
			return nil
		})
		return cmd.Int()
	}
	for set, runAt := range map[string]time.Time{PendingKey(p.queue): {}, ScheduledKey(p.queue): later} {
		s, err := capture.Capture(ctx, p.task("x"), TaskOptions(p.queue, "x", runAt)...)
		if err != nil {
			t.Fatal(err)
		}
		if keys := []string{TaskKey(p.queue, "x"), set}; !slices.Equal(s.keys, keys) {
			t.Errorf("the script's keys are %v; want %v", s.keys, keys)
		}
		if n := p.rdb.DBSize(ctx).Val(); n != 0 {
			t.Errorf("capturing wrote %d keys; want none", n)
		}
		if _, err := run(s); !IsNoScript(err) {
			t.Errorf("before Load: %v; want NOSCRIPT", err)
		}
		if err := capture.Load(ctx); err != nil {
			t.Fatal(err)
		}
		if n, err := run(s); err != nil || n != 1 {
			t.Errorf("the first call returns %d, %v; want 1 for stored", n, err)
		}
		if n, err := run(s); err != nil || n != 0 {
			t.Errorf("the second call returns %d, %v; want 0 for an ID that is taken", n, err)
		}
		p.enqueue("y", runAt)
		p.wantTrue("both tasks have the same fields", slices.Equal(p.fields("x"), p.fields("y")))
		p.wantTrue("both messages differ in the ID only", strings.ReplaceAll(p.field("x", FieldMsg), "x", "y") == strings.ReplaceAll(p.field("y", FieldMsg), "x", "y"))
		inSet := append(p.rdb.Sort(ctx, set, &redis.Sort{Alpha: true}).Val(), p.field("x", FieldState))
		p.want("the set, and the state", inSet, "x", "y", p.field("y", FieldState))
		if err := p.rdb.FlushDB(ctx).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := capture.Capture(ctx, p.task("x"), TaskOptions(p.queue, " ", time.Time{})...); err == nil {
		t.Error("captured a task without an ID; want asynq's error")
	}
}
