package worker_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/webhook"
)

// hookReceiver is the receiver of webhooks.
type hookReceiver struct {
	*httptest.Server
	bodies chan string
}

const hookSecret = "a-secret-of-more-than-16-bytes"

// newHookReceiver refuses the first few posts.
func newHookReceiver(t *testing.T, refuse int) *hookReceiver {
	t.Helper()
	r := &hookReceiver{bodies: make(chan string, 100)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		if err := webhook.Verify(hookSecret, req.Header, body, time.Now(), webhook.Tolerance); err != nil {
			t.Errorf("the signature: %v", err)
		}
		if refuse > 0 {
			refuse--
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		r.bodies <- string(body)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *hookReceiver) sender(t *testing.T) *webhook.Sender {
	t.Helper()
	secret, err := webhook.StaticSecret(hookSecret)
	if err != nil {
		t.Fatal(err)
	}
	sender, err := webhook.New(webhook.Config{URL: r.URL, Secret: secret})
	if err != nil {
		t.Fatal(err)
	}
	return sender
}

func TestWorker_CompleteBatchIsPostedOnce(t *testing.T) {
	t.Parallel()
	api := newStandIn(t, always(done))
	receiver := newHookReceiver(t, 1)
	b := setup(t, api.URL)
	b.cfg.Webhook = receiver.sender(t)
	var all []tasks.Task
	for i := range 20 {
		all = append(all, unbindTask(i))
	}
	b.openBatch(all...)
	b.start()
	select {
	case body := <-receiver.bodies:
		var payload struct {
			Type string           `json:"type"`
			Data tasks.BatchStats `json:"data"`
		}
		if err := json.Unmarshal([]byte(body), &payload); err != nil || payload.Type != "batch.complete" || payload.Data.ID != "batch-1" || !payload.Data.Done {
			t.Errorf("%s, %v; want the stats of the batch", body, err)
		}
	case <-time.After(settleIn):
		t.Fatal("nothing was posted; want the webhook")
	}
	b.awaitSettled()
	if n := len(receiver.bodies); n != 0 {
		t.Errorf("posted %d times more; want once in all", n)
	}
	if n := b.metric("kooworker_tasks_finished_total", map[string]string{"kind": "batch:webhook", "outcome": "succeeded"}); n != 1 {
		t.Errorf("%v webhooks are counted; want 1", n)
	}
}

// A webhook that always fails becomes a dead letter, so that it is not retried for
// ever.
func TestWorker_FailingWebhookIsDead(t *testing.T) {
	t.Parallel()
	api := newStandIn(t, always(done))
	receiver := newHookReceiver(t, 1000)
	b := setup(t, api.URL)
	b.cfg.Policy.MaxAttempts = 2
	b.cfg.Webhook = receiver.sender(t)
	b.openBatch(unbindTask(1))
	b.start()
	redistest.Eventually(t, settleIn, "it is dead", func() bool { return b.dead()["batch-1"].Kind == tasks.KindBatchWebhook })
	if l := b.dead()["batch-1"]; l.Reason != tasks.Upstream || l.Attempts != 2 {
		t.Errorf("%+v; want a dead webhook after 2 attempts, with the reason upstream", l)
	}
}
