package recovery

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

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/asynqmsg"
)

// The tests of this file fail when an upgrade of asynq changes what this package
// relies on. Then read asynq's internal/rdb and internal/proto again before
// anything else.

// TestAsynqsKeys drives tasks through asynq and looks at the keys.
func TestAsynqsKeys(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb, ctx := server.Client(), t.Context()
	client, inspector := asynq.NewClientFromRedisClient(rdb), asynq.NewInspectorFromRedisClient(rdb)
	q := newQueue("unbind", tasks.QueueDeadLetter)
	enqueue := func(id string, opts ...asynq.Option) {
		t.Helper()
		opts = append(opts, asynq.TaskID(id), asynq.Queue(q.name), asynq.MaxRetry(tasks.MaxRetry), asynq.Timeout(tasks.Timeout))
		if _, err := client.EnqueueContext(ctx, asynq.NewTask("device:unbind", []byte("p")), opts...); err != nil {
			t.Fatal(err)
		}
	}
	fields := func(id string) []string { return slices.Sorted(maps.Keys(rdb.HGetAll(ctx, q.tasks+id).Val())) }
	state := func(id string) string { return rdb.HGet(ctx, q.tasks+id, hashState).Val() }
	want := func(what string, got, want any) {
		t.Helper()
		if gs, ok := got.([]string); ok {
			if !slices.Equal(gs, want.([]string)) {
				t.Errorf("%s: %v; want %v", what, got, want)
			}
		} else if got != want {
			t.Errorf("%s: %v; want %v", what, got, want)
		}
	}

	enqueue("p1")
	enqueue("p2")
	enqueue("s", asynq.ProcessIn(time.Hour))
	want("pending, the head at the right", rdb.LRange(ctx, q.pending, 0, -1).Val(), []string{"p2", "p1"})
	want("a pending hash", fields("p1"), []string{hashMsg, "pending_since", hashState})
	since, _ := strconv.ParseInt(rdb.HGet(ctx, q.tasks+"p1", "pending_since").Val(), 10, 64)
	want("pending_since in ns", time.Since(time.Unix(0, since)).Abs() < time.Minute, true)
	want("state", state("p1"), "pending")
	want("scheduled", rdb.ZRange(ctx, q.scheduled, 0, -1).Val(), []string{"s"})
	want("state", state("s"), "scheduled")
	want("registered", rdb.SMembers(ctx, allQueues).Val(), []string{q.name})
	if err := inspector.ArchiveTask(q.name, "p2"); err != nil {
		t.Fatal(err)
	}
	want("archived", rdb.ZRange(ctx, q.archived, 0, -1).Val(), []string{"p2"})
	want("state", state("p2"), "archived")
	if err := inspector.PauseQueue(q.name); err != nil {
		t.Fatal(err)
	}
	want("paused", rdb.Exists(ctx, q.paused).Val(), int64(1))
	if err := inspector.UnpauseQueue(q.name); err != nil {
		t.Fatal(err)
	}
	testServersKeys(t, rdb, q, want, state)
}

// testServersKeys looks at what a server writes while it works on p1, and
// after.
func testServersKeys(t *testing.T, rdb *redis.Client, q queue, want func(string, any, any), state func(string) string) {
	t.Helper()
	ctx := t.Context()
	started, finish := make(chan struct{}), make(chan struct{})
	srv := asynq.NewServerFromRedisClient(rdb, asynq.Config{
		Concurrency: 1, Queues: map[string]int{q.name: 1}, LogLevel: asynq.FatalLevel, TaskCheckInterval: 10 * time.Millisecond,
		RetryDelayFunc: func(int, error, *asynq.Task) time.Duration { return time.Hour },
	})
	if err := srv.Start(asynq.HandlerFunc(func(context.Context, *asynq.Task) error {
		close(started)
		<-finish
		return errors.New("forbidden: no")
	})); err != nil {
		t.Fatal(err)
	}
	<-started
	now := time.Now()
	want("active", rdb.LRange(ctx, q.active, 0, -1).Val(), []string{"p1"})
	want("state", state("p1"), "active")
	lease := rdb.ZScore(ctx, q.lease, "p1").Val()
	want("a lease of 30 s", time.Unix(int64(lease), 0).Sub(now.Add(leaseLife)).Abs() < 3*time.Second, true)
	servers := rdb.ZRangeWithScores(ctx, allServers, 0, -1).Val()
	if len(servers) != 1 {
		t.Fatalf("servers: %v", servers)
	}
	name, _ := servers[0].Member.(string)
	want("a server's name", strings.HasPrefix(name, "asynq:servers:{"), true)
	want("a heartbeat of 10 s", time.Unix(int64(servers[0].Score), 0).Sub(now.Add(heartbeatLife)).Abs() < 3*time.Second, true)
	info, err := rdb.Get(ctx, name).Bytes()
	want("a server that is up", err == nil && strings.Contains(string(info), statusActive) && !closing(info), true)
	close(finish)
	redistest.Eventually(t, 10*time.Second, "the task in retry", func() bool { return rdb.ZCard(ctx, q.retry).Val() == 1 })
	want("state", state("p1"), "retry")
	msg, err := asynqmsg.Parse([]byte(rdb.HGet(ctx, q.tasks+"p1", hashMsg).Val()))
	want("the message", err == nil && msg.ID == "p1" && msg.Queue == q.name && msg.Kind == "device:unbind" &&
		msg.Retried == 1 && msg.ErrorMsg == "forbidden: no" && string(msg.Payload) == "p" && msg.LastFailedAt > 0, true)
	srv.Shutdown()
	want("a server that stopped", rdb.ZCard(ctx, allServers).Val(), int64(0))
}
