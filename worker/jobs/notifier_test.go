package jobs

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

// hmgets is how many HMGET commands a server has carried out.
func hmgets(t *testing.T, rdb *redis.Client) int {
	t.Helper()
	info, err := rdb.Info(t.Context(), "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	_, stats, _ := strings.Cut(info, "cmdstat_hmget:calls=")
	n, _ := strconv.Atoi(stats[:max(strings.IndexByte(stats, ','), 0)])
	return n
}

// One batch for each deleted account is a normal use: a completion must not read
// all the batches that are open.
func TestBatchNotifier_CompletionReadsItsBatchOnly(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	store := batch.NewStore(rdb)
	const open, completed = 300, 20
	for i := range open {
		openBatchOf(t, store, fmt.Sprint("open-", i), unbindTask)
	}
	core, logs := observer.New(zapcore.InfoLevel)
	n := NewBatchNotifier(rdb, false, zap.New(core))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { n.Run(ctx); close(ended) }()
	defer func() { cancel(); <-ended }()
	redistest.Eventually(t, 10*time.Second, "the first scan is over", func() bool { return hmgets(t, rdb) >= open })
	before := hmgets(t, rdb)
	for i := range completed {
		id := fmt.Sprint("done-", i)
		ref := openBatchOf(t, store, id, unbindTask)
		if err := store.CloseInput(t.Context(), id, 1); err != nil {
			t.Fatal(err)
		}
		done, _, err := store.RecordOutcomes(t.Context(), []tasks.Receipt{{BatchRef: ref, Kind: tasks.KindDeviceUnbind, UserID: "u", Target: "d", Outcome: tasks.Succeeded, Reason: tasks.OK}})
		if err != nil || len(done) != 1 {
			t.Fatalf("completed %v, %v; want %s", done, err, id)
		}
		n.Completed(done...)
		redistest.Eventually(t, 10*time.Second, "the completion is in the log", func() bool { return logs.FilterMessage("batch complete").Len() == i+1 })
	}
	if read := hmgets(t, rdb) - before; read > 20*completed+open {
		t.Errorf("%d completions have read %d batches; want some for each, not all %d that are open", completed, read, open)
	}
}

// While the workers are changed one after the other, some have a webhook and some
// have none yet.
func TestBatchNotifier_LeavesABatchToAWorkerWithAWebhook(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	store := batch.NewStore(rdb)
	complete := func(id string) {
		ref := openBatchOf(t, store, id, unbindTask)
		if err := store.CloseInput(t.Context(), id, 1); err != nil {
			t.Fatal(err)
		}
		_, _, err := store.RecordOutcomes(t.Context(), []tasks.Receipt{{BatchRef: ref, Kind: tasks.KindDeviceUnbind, UserID: "u", Target: "d", Outcome: tasks.Succeeded, Reason: tasks.OK}})
		if err != nil {
			t.Fatal(err)
		}
	}
	webhook := func(id string) bool {
		return rdb.Exists(t.Context(), asynqx.TaskKey(tasks.QueueWebhook, tasks.Identity(tasks.BatchWebhook{BatchID: id}))).Val() == 1
	}
	core, logs := observer.New(zapcore.InfoLevel)
	older, newer := NewBatchNotifier(rdb, false, zap.New(core)), NewBatchNotifier(rdb, true, zap.New(core))

	complete("b-1")
	older.notify(t.Context())
	if logs.FilterMessage("batch complete").Len() != 1 || webhook("b-1") {
		t.Errorf("log %v; want the batch announced in the log alone, since no worker has a webhook", logs.All())
	}
	newer.notify(t.Context()) // its start
	complete("b-2")
	older.notify(t.Context(), "b-2")
	older.notify(t.Context())
	if logs.FilterMessage("batch complete").Len() != 1 {
		t.Error("a worker without a webhook has announced a batch; want it left to the worker that has one")
	}
	newer.notify(t.Context())
	if logs.FilterMessage("batch complete").Len() != 2 || !webhook("b-2") {
		t.Errorf("log %v; want the batch announced, with its webhook", logs.All())
	}
	ttl, err := rdb.TTL(t.Context(), "kooworker:batches:webhook").Result()
	if err != nil || ttl <= scanEvery || ttl > webhookTTL {
		t.Errorf("the worker with the webhook is remembered for %s, %v; want more than a scan, and at most %s", ttl, err, webhookTTL)
	}
	rdb.Del(t.Context(), "kooworker:batches:webhook") // as when it expires
	complete("b-3")
	older.notify(t.Context())
	if logs.FilterMessage("batch complete").Len() != 3 {
		t.Error("not announced; want it announced when no worker has a webhook any more")
	}
}

// A batch whose producer died long ago is no longer read at each scan. The log says
// which one, once, and how to go on.
func TestBatchNotifier_IdleBatchIsLoggedOnce(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	store := batch.NewStore(rdb)
	openBatchOf(t, store, "waiting", unbindTask)
	openBatchOf(t, store, "given-up", unbindTask)
	if err := rdb.HSet(t.Context(), "kooworker:{batch:given-up}:meta", "changed_at", time.Now().Add(-idleFor-time.Hour).UnixMilli()).Err(); err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zapcore.InfoLevel)
	for range 2 { // workers
		NewBatchNotifier(rdb, false, zap.New(core)).dropIdle(t.Context())
	}
	lines := logs.FilterMessageSnippet("was not read to its end").All()
	if len(lines) != 1 || lines[0].ContextMap()["batch"] != "given-up" || !strings.Contains(fmt.Sprint(lines[0].ContextMap()["hint"]), "--batch given-up") {
		t.Errorf("the log has %v; want one line that names the batch and how to go on", lines)
	}
	if left := rdb.SMembers(t.Context(), "kooworker:batches:open").Val(); len(left) != 1 || left[0] != "waiting" {
		t.Errorf("the open batches are %q; want only waiting", left)
	}
}
