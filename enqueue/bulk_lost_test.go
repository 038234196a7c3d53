package enqueue_test

import (
	"errors"
	"strings"
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
	for _, tc := range []struct {
		name string
		// After so many items. Twelve chunks more may be stored by the time of the snapshot,
		// and some of the others must not be.
		save, kill int
		batch      *batch.Spec
	}{
		{"batch, in the middle", 2_000, 5_000, &batch.Spec{ID: "b-1"}},
		{"batch, near the end", 2_000, 9_990, &batch.Spec{ID: "b-1"}},
		{"no batch, in the middle", 2_000, 5_000, nil},
		{"no batch, near the end", 2_000, 9_990, nil},
		{"no batch, at the end", 2_000, 10_000, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			const n = 10_000
			o := enqueue.BulkOptions{Batch: tc.batch}
			seen := 0
			o.OnItem = func(enqueue.Item) {
				switch seen++; seen {
				case tc.save:
					if err := b.rdb.Save(t.Context()).Err(); err != nil {
						t.Error(err)
					}
				case tc.kill:
					b.redis.Kill()
					b.redis.Restart()
				}
			}
			_, err := b.client.Bulk(t.Context(), unbinds(n), o)
			if lost, ok := errors.AsType[*batch.DataLossError](err); !ok || !strings.Contains(lost.Hint(), "run the same command again") {
				t.Errorf("%v; want a DataLossError with a hint", err)
			}
			if tc.batch != nil {
				if stats := b.stats(t, "b-1"); stats.Done || stats.Total >= n {
					t.Errorf("%+v; want fewer than %d tasks, not done", stats, n)
				}
			}
			o.OnItem = nil
			res, err := b.client.Bulk(t.Context(), unbinds(n), o)
			if there := res.Skipped + res.Duplicate; err != nil || res.Enqueued+there != n || there == 0 || res.Enqueued == 0 {
				t.Errorf("again: %+v, %v; want what is lost enqueued, and the others skipped or duplicate", res, err)
			}
			if tc.batch != nil {
				if stats := b.stats(t, "b-1"); stats.Queued != n {
					t.Errorf("again: %+v; want %d queued", stats, n)
				}
			}
			queued := b.queued(t)
			for i := range n {
				if len(queued[unbindOf(i).DeviceID]) != 1 {
					t.Fatalf("%s is queued %d times; want once", unbindOf(i).DeviceID, len(queued[unbindOf(i).DeviceID]))
				}
			}
		})
	}
}

// A restart that loses nothing is no loss, and neither is a reply that was lost.
func TestBulk_RedisLosesNoTasks(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	rdb := server.Client()
	rdb.AddHook(&lostReplies{})
	client, err := enqueue.New(enqueue.Config{Redis: rdb})
	if err != nil {
		t.Fatal(err)
	}
	const n = 10_000
	seen := 0
	res, err := client.Bulk(t.Context(), unbinds(n), enqueue.BulkOptions{OnItem: func(enqueue.Item) {
		if seen++; seen == n/2 {
			server.Kill()
			server.Restart()
		}
	}})
	if err != nil || res.Total != n || res.Rejected != 0 {
		t.Errorf("%+v, %v; want %d items without an error", res, err, n)
	}
	b := &bundle{redis: server, rdb: server.Client(), inspector: asynq.NewInspectorFromRedisClient(server.Client())}
	if got := len(b.queued(t)); got != n {
		t.Errorf("%d tasks are queued; want %d", got, n)
	}
	keys, err := server.Client().Keys(t.Context(), "kooworker:bulk:*").Result()
	if err != nil || len(keys) != 0 {
		t.Errorf("the keys %v are left, %v; want none", keys, err)
	}
}
