package asynqx

import (
	"testing"
	"time"

	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

func TestEnqueueAll(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	inspector := asynq.NewInspectorFromRedisClient(rdb)
	now := time.Now()
	orders := []Order{
		{ID: "a", Kind: tasks.KindDeviceUnbind, Queue: tasks.QueueUnbind, Payload: []byte("1")},
		{ID: "b", Kind: tasks.KindLockRelease, Queue: tasks.QueueRelease, Payload: []byte("2"), RunAt: now.Add(time.Hour)},
	}
	for try := range 2 { // the second time all IDs are taken
		if err := EnqueueAll(t.Context(), rdb, orders); err != nil {
			t.Fatalf("try %d: %v", try, err)
		}
	}
	if err := rdb.ScriptFlush(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	orders = append(orders, Order{ID: "c", Kind: tasks.KindDeviceUnbind, Queue: tasks.QueueUnbind, Payload: []byte("3")})
	if err := EnqueueAll(t.Context(), rdb, orders); err != nil {
		t.Fatalf("Redis does not know the scripts any more: %v", err)
	}
	for _, o := range orders {
		info, err := inspector.GetTaskInfo(o.Queue, o.ID)
		if err != nil {
			t.Errorf("%s: %v; want it enqueued", o.ID, err)
			continue
		}
		if info.Type != string(o.Kind) || string(info.Payload) != string(o.Payload) || info.MaxRetry != tasks.MaxRetry || info.Timeout != tasks.Timeout {
			t.Errorf("%s: %+v; want it as ordered", o.ID, info)
		}
		if scheduled := info.State == asynq.TaskStateScheduled; scheduled != !o.RunAt.IsZero() {
			t.Errorf("%s is %s; want it scheduled only if it runs later", o.ID, info.State)
		}
	}
	if queues, err := inspector.Queues(); err != nil || len(queues) != 2 {
		t.Errorf("queues %v, %v; want both registered", queues, err)
	}
}
