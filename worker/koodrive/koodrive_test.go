package koodrive

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testUser   = "u-1"
	testDevice = "1775406005920779393"
	testLock   = "78e41c7e-db02-4d55-85b3-8153e4fefd2e@102"
	testToken  = "60f4ccc7b1d24c0e9d1f/Ab+c=="
)

// stub is an authorizer whose credential carries the number of renewals. It counts
// the texts that it was given to redact.
type stub struct{ renewals, redactions atomic.Int32 }

func (s *stub) Authorize(_ context.Context, req *http.Request, _ string) error {
	req.Header.Set("Authorization", "Stub "+string('a'+s.renewals.Load()))
	return nil
}

func (s *stub) Renew(string) { s.renewals.Add(1) }

func (s *stub) Redact(text string) string {
	s.redactions.Add(1)
	return text
}

// serve starts a server that outlives the test's subtests.
func serve(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	return srv
}

// connect returns a client of the server with a static token; change may alter
// its configuration first.
func connect(t *testing.T, url string, change func(*Config)) *Client {
	t.Helper()
	source, err := StaticToken(testToken)
	if err != nil {
		t.Fatal(err)
	}
	auth, err := NewTokenAuthorizer("", source)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{BaseURL: url, Authorizer: auth}
	if change != nil {
		change(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// say gives every request the same answer.
func say(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body)) //nolint:gosec,nolintlint // echoing is what some tests are about; gosec does not always see it
	}
}
