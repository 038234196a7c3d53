package webhook

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testID     = "batch:webhook::2026-01-31"
	testBody   = `{"type":"batch.completed"}`
	testSecret = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"
	testTime   = 1769852130 // 2026-01-31T09:35:30Z
	// testWait is for what should happen at once.
	testWait = 20 * time.Second
)

func testNow() time.Time { return time.Unix(testTime, 999_999_999) }

// connect returns a sender to a URL; change may alter its configuration first.
func connect(t *testing.T, url string, change func(*Config)) *Sender {
	t.Helper()
	secret, err := StaticSecret(testSecret)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{URL: url, Secret: secret, Now: testNow}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	t.Cleanup(s.CloseIdleConnections)
	return s
}

// serve starts a server that outlives the test's subtests.
func serve(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	return srv
}

// serveTLS starts a server, and returns a function that makes a sender trust it.
func serveTLS(t *testing.T, version uint16, handler http.HandlerFunc) (srv *httptest.Server, trust func(*Sender)) {
	t.Helper()
	srv = httptest.NewUnstartedServer(handler)
	srv.Config.ErrorLog = zap.NewStdLog(zap.NewNop())
	srv.TLS = &tls.Config{MinVersion: version, MaxVersion: version}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv, func(s *Sender) {
		s.transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		s.transport.TLSClientConfig.RootCAs.AddCert(srv.Certificate())
	}
}

// say gives every request the same answer.
func say(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// hang answers nothing until the client is gone. It sends to begun when a request
// arrives.
func hang(begun chan<- struct{}) http.HandlerFunc {
	return func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // the server watches the connection from then on
		begun <- struct{}{}
		<-r.Context().Done()
	}
}

// raw starts a server that reads a request and answers with these bytes. It closes
// the connection unless it is to stay open.
func raw(t *testing.T, answer string, open bool) *httptest.Server {
	t.Helper()
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.WriteString(conn, strings.ReplaceAll(answer, "\n", "\r\n"))
		if open {
			_, _ = io.Copy(io.Discard, conn) // until the other side closes it
		}
	})
}

// sendSoon fails the test if Send does not return soon.
func sendSoon(ctx context.Context, t *testing.T, s *Sender) Answer {
	t.Helper()
	answers := make(chan Answer, 1)
	go func() { answers <- s.Send(ctx, testID, []byte(testBody)) }()
	select {
	case a := <-answers:
		return a
	case <-time.After(testWait):
		t.Fatal("Send has not returned")
		return Answer{}
	}
}
