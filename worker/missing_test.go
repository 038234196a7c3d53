package worker

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

// A batch whose tasks were deleted is warned of once, and not while something happens to it.
func TestMissingWatch(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	store := batch.NewStore(rdb)
	lane := tasks.BatchLanes()[3]
	queue := lane.Of(tasks.QueueUnbind)
	client := asynq.NewClientFromRedisClient(rdb)
	const n = 10
	enqueue := func(id string) {
		t.Helper()
		_, _, err := store.Open(t.Context(), batch.Spec{ID: id, Lane: lane})
		var rolling batch.RollingDigest
		var digests []batch.Digest
		var marks []batch.Mark
		for i := range n {
			task := tasks.DeviceUnbind{UserID: "u", DeviceID: fmt.Sprint(i)}
			rolling.AddTask(task)
			digests = append(digests, rolling.Digest())
			marks = append(marks, batch.Mark{Index: int64(i), State: batch.Queued})
			_, enqueueErr := client.EnqueueContext(t.Context(), asynq.NewTask("x", nil), asynqx.TaskOptions(queue, tasks.BatchIdentity(id, task), time.Time{})...)
			err = errors.Join(err, enqueueErr)
		}
		_, claimErr := store.ClaimChunk(t.Context(), id, 0, digests)
		if err := errors.Join(err, claimErr, store.Mark(t.Context(), id, marks, nil), store.CloseInput(t.Context(), id, n)); err != nil {
			t.Fatal(err)
		}
	}
	age := func(id string) {
		rdb.HIncrBy(t.Context(), "kooworker:{batch:"+id+"}:meta", "changed_at", -batch.StalledAfter.Milliseconds()-1000)
	}
	core, logs := observer.New(zap.WarnLevel)
	watch := missingWatch{rdb: rdb, log: zap.New(core), warned: map[string]bool{}}
	look := func(why string, want int) {
		t.Helper()
		watch.looked = time.Time{}
		if err := watch.look(t.Context()); err != nil || logs.Len() != want {
			t.Errorf("%s: %v, %d warnings; want %d: %v", why, err, logs.Len(), want, logs.All())
		}
		logs.TakeAll()
	}
	enqueue("whole")
	age("whole")
	look("all are there", 0)
	enqueue("short")
	if err := asynq.NewInspectorFromRedisClient(rdb).DeleteTask(queue, tasks.BatchIdentity("short", tasks.DeviceUnbind{UserID: "u", DeviceID: "3"})); err != nil {
		t.Fatal(err)
	}
	look("the batch was enqueued just now", 0)
	age("short")
	look("one is missing, of either batch", 2)
	look("again", 0)
}
