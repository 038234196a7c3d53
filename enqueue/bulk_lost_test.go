package enqueue_test

import (
	"errors"
	"testing"

	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/redistest"
)

// Redis restarts from a snapshot in the middle of a bulk, as it may without
// appendonly. A failover to a replica that lags behind has the same effect. The
// producer must not report tasks that Redis has lost.
func TestBulk_RedisLosesTasks(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]struct{ save, kill int }{"in the middle": {5_000, 20_000}, "near the end": {38_000, 39_990}} {
		server := redistest.Start(t)
		client, err := enqueue.New(enqueue.Config{Redis: server.Client()})
		if err != nil {
			t.Fatal(err)
		}
		b := &bundle{client: client, redis: server, rdb: server.Client(), inspector: asynq.NewInspectorFromRedisClient(server.Client())}
		const n = 40_000
		o := enqueue.BulkOptions{Batch: &batch.Spec{ID: "b-1"}}
		seen := 0
		o.OnItem = func(enqueue.Item) {
			switch seen++; seen {
			case at.save:
				if err := b.rdb.Save(t.Context()).Err(); err != nil {
					t.Error(err)
				}
			case at.kill:
				server.Kill()
				server.Restart()
			}
		}
		_, err = client.Bulk(t.Context(), unbinds(n), o)
		if lost, ok := errors.AsType[*batch.DataLossError](err); !ok || lost.Hint() == "" {
			t.Errorf("%s: %v; want a DataLossError with a hint", name, err)
		}
		if stats := b.stats(t, "b-1"); stats.Done || stats.Total >= n {
			t.Errorf("%s: %+v; want fewer than %d tasks, not done", name, stats, n)
		}
		o.OnItem = nil
		res, err := client.Bulk(t.Context(), unbinds(n), o)
		if err != nil || res.Enqueued+res.Skipped != n || res.Skipped == 0 {
			t.Errorf("%s: again: %+v, %v; want every item enqueued or skipped", name, res, err)
		}
		if stats := b.stats(t, "b-1"); stats.Queued != n {
			t.Errorf("%s: again: %+v; want %d queued", name, stats, n)
		}
		queued := b.queued(t)
		for i := range n {
			if len(queued[unbindOf(i).DeviceID]) != 1 {
				t.Fatalf("%s: %s is queued %d times; want once", name, unbindOf(i).DeviceID, len(queued[unbindOf(i).DeviceID]))
			}
		}
	}
}
