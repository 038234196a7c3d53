package monitoring_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/koodrive"
)

// noReleases is for workers without sweeps.
type noReleases struct{}

func (noReleases) EnqueueReleases(context.Context, string, iter.Seq2[tasks.Task, error]) ([]tasks.Task, error) {
	return nil, errors.New("there are no sweeps in this test")
}

// startWorker runs a worker until the test ends.
func startWorker(t *testing.T, server *redistest.Server, koodriveURL string) {
	t.Helper()
	source, err := koodrive.StaticToken("tok-60f4ccc7b1-3dd9a68068")
	if err != nil {
		t.Fatal(err)
	}
	authorizer, err := koodrive.NewTokenAuthorizer("", source)
	if err != nil {
		t.Fatal(err)
	}
	w, err := worker.New(worker.Config{
		Redis: func() redis.UniversalClient { return redis.NewClient(server.Options()) }, KooDrive: koodrive.Config{BaseURL: koodriveURL, Authorizer: authorizer},
		Releases: noReleases{}, Concurrency: 4, ShutdownTimeout: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-result; err != nil {
			t.Errorf("the worker: %v", err)
		}
	})
}

// openBatch enqueues tasks as a batch, as package enqueue does. The ID of each task
// is its device's.
func (b *bundle) openBatch(ledger *batch.Store, id string, all ...tasks.DeviceUnbind) {
	b.t.Helper()
	ctx := b.t.Context()
	if _, _, err := ledger.Open(ctx, batch.Spec{ID: id}); err != nil {
		b.t.Fatal(err)
	}
	var digest batch.RollingDigest
	var digests []batch.Digest
	for _, task := range all {
		digest.AddTask(task)
		digests = append(digests, digest.Digest())
	}
	chunk, err := ledger.ClaimChunk(ctx, id, 0, digests)
	if err != nil {
		b.t.Fatal(err)
	}
	var marks []batch.Mark
	for i, task := range all {
		ref := tasks.BatchRef{Batch: id, Index: chunk.Index(i)}
		payload, err := tasks.Encode(task, tasks.Intent{EnqueuedAt: time.Now(), BatchRef: ref})
		if err != nil {
			b.t.Fatal(err)
		}
		if _, err := asynq.NewClientFromRedisClient(b.rdb).EnqueueContext(ctx, asynq.NewTask(string(task.Kind()), payload), asynqx.TaskOptions(tasks.QueueUnbind, task.DeviceID, time.Time{})...); err != nil {
			b.t.Fatal(err)
		}
		marks = append(marks, batch.Mark{Index: ref.Index, State: batch.Queued})
	}
	if err := errors.Join(ledger.Mark(ctx, id, marks, nil), ledger.CloseInput(ctx, id, int64(len(all)))); err != nil {
		b.t.Fatal(err)
	}
}

// A worker parks what KooDrive forbids. Run carries out one of the letters in
// earnest, and Delete discards the other. The ledger of the batch knows both.
func TestRunAndDiscard_WithWorker(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b := setupOver(t, server.Client())
	var isAllowed atomic.Bool
	var calls atomic.Int64
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.Method == http.MethodDelete && isAllowed.Load() {
			calls.Add(1)
			_, _ = io.WriteString(w, `{"code":0,"msg":"success"}`)
			return
		}
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"code":13000410,"msg":"no permission"}`)
	}))
	t.Cleanup(api.Close)
	ledger := batch.NewStore(b.rdb)
	b.discard = func(ctx context.Context, ids []string) (int, error) {
		res, err := b.letters.Discard(ctx, deadletter.Filter{IDs: ids}, deadletter.Options{RecordOutcomes: func(ctx context.Context, receipts []tasks.Receipt) error {
			_, _, err := ledger.RecordOutcomes(ctx, receipts)
			return err
		}})
		return res.Done, err
	}
	startWorker(t, server, api.URL)
	b.openBatch(ledger, "b-1", tasks.DeviceUnbind{UserID: "u/1", DeviceID: "d-1"}, tasks.DeviceUnbind{UserID: "u/1", DeviceID: "d-2"}, tasks.DeviceUnbind{UserID: "u/1", DeviceID: "d-3"})

	counts := func() string {
		stats, err := ledger.Show(t.Context(), "b-1")
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%d: %d dead, %d succeeded, %d discarded", stats.Total, stats.Dead, stats.Succeeded, stats.Discarded)
	}
	const within = 60 * time.Second
	parked := func() int {
		all, _ := b.get("queues/dead-letter/retry_tasks")["tasks"].([]any)
		return len(all)
	}
	redistest.Eventually(t, within, "three parked letters", func() bool {
		return b.rdb.SIsMember(t.Context(), asynqx.AllQueuesKey, tasks.QueueDeadLetter).Val() && parked() == 3
	})
	if got, want := counts(), "3: 3 dead, 0 succeeded, 0 discarded"; got != want {
		t.Fatalf("before: %s; want %s", got, want)
	}

	isAllowed.Store(true)
	b.want(b.api(operator, http.MethodPost, "queues/dead-letter/retry_tasks/d-1:run"), http.StatusNoContent)
	redistest.Eventually(t, within, "the letter that was run to be done", func() bool { return counts() == "3: 2 dead, 1 succeeded, 0 discarded" })
	b.want(b.api(operator, http.MethodDelete, "queues/dead-letter/retry_tasks/d-2"), http.StatusNoContent)
	b.want(b.api(operator, http.MethodPost, "queues/dead-letter/retry_tasks:batch_delete", ids("d-3")), http.StatusOK, `"deleted_ids":["d-3"]`)
	if got, want := counts(), "3: 0 dead, 1 succeeded, 2 discarded"; got != want {
		t.Errorf("after: %s; want %s", got, want)
	}
	if n := calls.Load(); n != 1 {
		t.Errorf("KooDrive was called %d times; want once, for the letter that was run", n)
	}
	redistest.Eventually(t, within, "no letter", func() bool { return parked() == 0 })
	var actions []string
	for _, e := range b.audited() {
		actions = append(actions, fmt.Sprintf("%s %s: %d %s", e.By, e.Action, e.Count, e.Subject))
	}
	want := []string{"olga dead letters replayed: 1 queue dead-letter: d-1", "olga dead letters discarded: 1 d-2", "olga dead letters discarded: 1 d-3"}
	if diff := cmp.Diff(want, actions); diff != "" {
		t.Errorf("audited (-want +got):\n%s", diff)
	}
}
