package jobs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/pipeline"
	"github.com/kooworker/kooworker/worker/webhook"
)

func TestPostWebhook_WithoutARequest(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	b := setup(t, gate.Config{})
	b.batches = batch.NewStore(rdb)
	openBatchOf(t, b.batches, "b-1", unbindTask)
	task := tasks.BatchWebhook{BatchID: "b-1"}
	wantWaiting(t, "this worker has no webhook", b.do(task))

	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("a-secret-of-more-than-16-bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	secret, err := webhook.SecretFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if b.webhook, err = webhook.New(webhook.Config{URL: "http://127.0.0.1:1", Secret: secret}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	wantWaiting(t, "the secret is gone", b.do(task))

	// Nobody is left to tell, however often the task runs.
	b.logs.TakeAll()
	r := b.do(tasks.BatchWebhook{BatchID: "deleted"})
	if r.Kind != pipeline.IsSuperseded || b.logs.Len() != 1 {
		t.Errorf("a batch that is deleted: %+v, log %v; want it superseded, with a line in the log", r, b.logs.All())
	}
	if err := rdb.HSet(t.Context(), "kooworker:{batch:b-1}:meta", "total", "many").Err(); err != nil {
		t.Fatal(err)
	}
	if r := b.do(task); r.Kind != pipeline.IsFailed || r.Reason != tasks.Invalid {
		t.Errorf("a batch that cannot be read: %+v; want it failed, since it would come again every time", r)
	}
	if err := rdb.Close(); err != nil {
		t.Fatal(err)
	}
	wantSnoozed(t, "Redis is away", b.do(task))
}
