package webhook_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	"github.com/kooworker/kooworker/worker/webhook"
)

// The receiver accepts only what is signed, answers before it works, and does nothing
// twice.
func ExampleVerify() {
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	var seen sync.Map // of a real receiver: in its database
	receiver := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
		if err != nil {
			http.Error(w, "too large, or it broke off", http.StatusBadRequest)
			return
		}
		if err := webhook.Verify(secret, r.Header, body, time.Now(), webhook.Tolerance); err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		id := r.Header.Get("Webhook-Id")
		if _, before := seen.LoadOrStore(id, true); !before {
			fmt.Println(id, string(body))
		}
		w.WriteHeader(http.StatusNoContent)
	})
	server := httptest.NewServer(receiver)
	defer server.Close()

	for _, secret := range []string{secret, secret, "not what they agreed on"} {
		source, err := webhook.StaticSecret(secret)
		if err != nil {
			panic(err)
		}
		sender, err := webhook.New(webhook.Config{URL: server.URL, Secret: source})
		if err != nil {
			panic(err)
		}
		answer := sender.Send(context.Background(), "batch-complete-2026-01-31", []byte(`{"type":"batch.complete"}`))
		fmt.Printf("%s %q\n", answer.Reason, answer.Message)
		sender.CloseIdleConnections()
	}
	// Output:
	// batch-complete-2026-01-31 {"type":"batch.complete"}
	// ok ""
	// ok ""
	// rejected "HTTP 401: no signature of the webhook is by this secret"
}
