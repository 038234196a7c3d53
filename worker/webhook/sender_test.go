package webhook

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// The request has what the package comment says, and nothing else.
func TestSend_Request(t *testing.T) {
	t.Parallel()
	requests := make(chan *http.Request, 1)
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != testBody {
			t.Errorf("body: got %q, %v; want %q", body, err, testBody)
		}
		if err := Verify(testSecret, r.Header, body, testNow(), time.Second); err != nil {
			t.Error(err)
		}
		requests <- r
		w.WriteHeader(http.StatusNoContent)
	})
	s := connect(t, srv.URL+"/hooks/batch?token=a%2Fb&x", nil)
	if a := s.Send(t.Context(), testID, []byte(testBody)); a != (Answer{Reason: tasks.OK}) {
		t.Errorf("got %+v, want ok and nothing else", a)
	}
	r := <-requests
	if r.Method != http.MethodPost || r.RequestURI != "/hooks/batch?token=a%2Fb&x" {
		t.Errorf("got %s %s, want a POST to the URL", r.Method, r.RequestURI)
	}
	want := http.Header{
		"Content-Type":      {"application/json"},
		"Content-Length":    {"26"},
		"User-Agent":        {"kooworker"},
		"Webhook-Id":        {testID},
		"Webhook-Timestamp": {"1769852130"},
		"Webhook-Signature": {testSignature},
	}
	if !maps.EqualFunc(r.Header, want, slices.Equal) {
		t.Errorf("got the headers %v, want %v", r.Header, want)
	}
}

func TestSend_SlowReceiver(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{}, 1)
	s := connect(t, serve(t, hang(begun)).URL, func(cfg *Config) { cfg.Timeout = 50 * time.Millisecond })
	a := sendSoon(t.Context(), t, s)
	if want := (Answer{Reason: tasks.TimedOut, Message: "no answer within 50ms", Hint: hintTimeout}); a != want {
		t.Errorf("got %+v, want %+v", a, want)
	}
}

func TestSend_CallerGivesUp(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{}, 1)
	s := connect(t, serve(t, hang(begun)).URL, func(cfg *Config) { cfg.Timeout = time.Hour })
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	go func() {
		<-begun
		cancel(errors.New("the worker\nstops"))
	}()
	want := Answer{Reason: tasks.TimedOut, Message: "the caller gave up: the worker stops"}
	if a := sendSoon(ctx, t, s); a != want {
		t.Errorf("under way: got %+v, want %+v", a, want)
	}
	if a := sendSoon(ctx, t, s); a != want || len(begun) > 0 {
		t.Errorf("before it began: got %+v, want %+v and nothing sent", a, want)
	}
}

func TestSend_InvalidEvent(t *testing.T) {
	t.Parallel()
	srv := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("it was sent") })
	s := connect(t, srv.URL, nil)
	for _, tc := range []struct{ id, body, message string }{
		{"", testBody, "the webhook's id is malformed"},
		{"a{b", testBody, "the webhook's id is malformed"},
		{"a\r\nX: y", testBody, "the webhook's id is malformed"},
		{strings.Repeat("x", 201), testBody, "the webhook's id is malformed"},
		{testID, "", "the webhook's body is not a JSON object"},
		{testID, " {}", "the webhook's body is not a JSON object"},
		{testID, "[]", "the webhook's body is not a JSON object"},
	} {
		if a := s.Send(t.Context(), tc.id, []byte(tc.body)); a.Reason != tasks.Invalid || !strings.HasPrefix(a.Message, tc.message) {
			t.Errorf("%q, %q: got %+v, want invalid: %s", tc.id, tc.body, a, tc.message)
		}
	}
}

func TestSend_OneConnection(t *testing.T) {
	t.Parallel()
	var connections atomic.Int32
	srv := serve(t, say(500, strings.Repeat("x", maxAnswer-1)))
	s := connect(t, srv.URL, nil)
	dial := s.transport.DialContext
	s.transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		connections.Add(1)
		return dial(ctx, network, addr)
	}
	for range 5 {
		s.Send(t.Context(), testID, []byte(testBody))
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections for 5 webhooks in a row, want 1", n)
	}
	if s.transport.MaxIdleConns != 1 || s.transport.MaxIdleConnsPerHost != 1 {
		t.Error("more than one connection is kept, want one")
	}
}
