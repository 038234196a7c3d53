package enqueue_test

import (
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

// The master with asynq's list of queues hangs. Orders for queues of other masters are taken.
func TestClient_ListOfQueuesHangs(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 3, false, "--cluster-node-timeout", "60000")
	list := c.MasterOf(asynqx.AllQueuesKey)
	if list == c.MasterOf(asynqx.PendingKey(tasks.QueueUnbind)) {
		t.Fatal("the queue is on the same master as the list; want another")
	}
	rdb := c.Client()
	client, err := enqueue.New(enqueue.Config{Redis: rdb})
	if err != nil {
		t.Fatal(err)
	}
	// The client knows the cluster as it is now: to learn it anew, it would ask the master
	// that hangs, for ten seconds.
	rdb.ReloadState(t.Context())
	for _, key := range []string{asynqx.AllQueuesKey, asynqx.PendingKey(tasks.QueueUnbind)} {
		if err := rdb.Exists(t.Context(), key).Err(); err != nil {
			t.Fatal(err)
		}
	}
	list.Freeze()
	began := time.Now()
	if r, err := client.Unbind(t.Context(), tasks.DeviceUnbind{UserID: "u", DeviceID: "d"}); err != nil || r.Status != enqueue.Enqueued {
		t.Errorf("%+v, %v; want it enqueued", r, err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s; want about a second", took)
	}
	list.Thaw()
}
