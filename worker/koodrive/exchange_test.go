package koodrive

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/kooworker/kooworker/internal/httpx"
	"github.com/kooworker/kooworker/tasks"
)

func TestClient_RenewsARefusedCredentialOnce(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		accepted string // the credential that the server takes
		want     tasks.Reason
		calls    int
	}{
		"accepted at once": {"Stub a", tasks.OK, 1},
		"after renewal":    {"Stub b", tasks.OK, 2},
		"never":            {"", tasks.Unauthorized, 2},
	} {
		calls := 0
		srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
			calls++
			if r.Header.Get("Authorization") != tc.accepted {
				say(401, `{"code":13000401,"msg":"token expired"}`)(w, r)
				return
			}
			say(200, `{"code":0}`)(w, r)
		})
		auth := &stub{}
		c := connect(t, srv.URL, func(cfg *Config) { cfg.Authorizer = auth })
		if got := c.Release(t.Context(), testUser, testLock); got.Reason != tc.want || calls != tc.calls {
			t.Errorf("%s: got %v after %d calls, want %s after %d", name, got, calls, tc.want, tc.calls)
		}
		if got := int(auth.renewals.Load()); got != tc.calls-1 {
			t.Errorf("%s: renewed %d times, want %d", name, got, tc.calls-1)
		}
	}
}

// A server that is an hour behind refuses the first X-Date. The second try must have
// one that this server accepts.
func TestClient_XDateAfterARefusal(t *testing.T) {
	t.Parallel()
	for _, skew := range []time.Duration{-time.Hour, 0, time.Hour} {
		srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
			now := time.Now().Add(skew)
			w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
			sent, err := time.Parse(dateFormat, r.Header.Get("X-Date"))
			if err != nil || sent.After(now) || now.Sub(sent) > 15*time.Minute {
				say(400, `{"code":13000499,"msg":"X-Date is out of range"}`)(w, r)
				return
			}
			say(200, `{"code":0}`)(w, r)
		})
		if got := connect(t, srv.URL, nil).Release(t.Context(), testUser, testLock); got.Reason != tasks.OK {
			t.Errorf("server %s off: got %v, want ok", skew, got)
		}
	}
}

func TestClient_NetworkFaults(t *testing.T) {
	t.Parallel()
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() } // until the client hangs up
	hangInBody := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		_ = http.NewResponseController(w).Flush()
		hang(w, r)
	}
	cut := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte(`{"code":0`))
	}
	drop := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		timeout time.Duration
		status  int
		want    tasks.Reason
		says    string
	}{
		"no answer":        {hang, 50 * time.Millisecond, 0, tasks.TimedOut, "no complete answer within 50ms"},
		"half an answer":   {hangInBody, time.Second, 200, tasks.TimedOut, "no complete answer within 1s"},
		"truncated answer": {cut, 0, 200, tasks.Network, "broke in the middle"},
		"hung up":          {drop, 0, 0, tasks.Network, "closed without an answer"},
	} {
		c := connect(t, serve(t, tc.handler).URL, func(cfg *Config) { cfg.CallTimeout = tc.timeout })
		got := c.Unbind(t.Context(), testUser, testDevice)
		if got.Reason != tc.want || got.Status != tc.status || !strings.Contains(got.Message, tc.says) {
			t.Errorf("%s: got %v with status %d, want %s with status %d and %q", name, got, got.Status, tc.want, tc.status, tc.says)
		}
	}
}

func TestClient_RetryAfterWithoutDate(t *testing.T) {
	t.Parallel()
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Date"] = nil
		w.Header().Set("Retry-After", time.Now().Add(time.Minute).UTC().Format(http.TimeFormat))
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	got := connect(t, srv.URL, nil).Release(t.Context(), testUser, testLock)
	if got.Reason != tasks.Upstream || got.RetryAfter < 30*time.Second || got.RetryAfter > time.Minute {
		t.Errorf("got %v with RetryAfter %s, want upstream with nearly a minute", got, got.RetryAfter)
	}
}

func TestClient_WrongProxySetting(t *testing.T) {
	t.Parallel()
	c := connect(t, "https://drive.example.com", nil)
	c.transport.Proxy = httpx.HideProxy(func(*http.Request) (*url.URL, error) { return nil, errors.New("http://u:hush@[proxy is no URL") })
	if got := c.Release(t.Context(), testUser, testLock); got.Reason != tasks.Network || got.Message != httpx.ErrProxy.Error() {
		t.Errorf("got %v, want network with %q", got, httpx.ErrProxy)
	}
}

func TestClient_NoServer(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	plain := serve(t, say(200, `{"code":0}`))
	for name, base := range map[string]string{
		"refused":       "http://" + ln.Addr().String(),
		"not TLS":       strings.Replace(plain.URL, "http:", "https:", 1),
		"no such name":  "https://koodrive.invalid",
		"not this port": "http://127.0.0.1:1/secret-prefix",
	} {
		got := connect(t, base, nil).Unbind(t.Context(), testUser, testDevice)
		if got.Reason != tasks.Network || got.Status != 0 || got.Message == "" {
			t.Errorf("%s: got %v, want network with a message", name, got)
		}
		if strings.Contains(got.Message, "/koodrive/") {
			t.Errorf("%s: got %q, want it without the URL", name, got.Message)
		}
	}
}

func TestClient_CallerGivesUp(t *testing.T) {
	t.Parallel()
	arrived, release := make(chan struct{}), make(chan struct{})
	srv := serve(t, func(http.ResponseWriter, *http.Request) { arrived <- struct{}{}; <-release })
	t.Cleanup(func() { close(release) })
	c := connect(t, srv.URL, func(cfg *Config) { cfg.Concurrency = 1 })
	ctx, cancel := context.WithCancelCause(t.Context())
	answer := make(chan Answer)
	go func() { answer <- c.Unbind(ctx, testUser, testDevice) }()
	<-arrived // the only slot is taken
	waiting, stop := context.WithTimeout(t.Context(), time.Millisecond)
	defer stop()
	if got := c.Unbind(waiting, testUser, testDevice); got.Reason != tasks.TimedOut || !strings.HasPrefix(got.Message, "the caller gave up") {
		t.Errorf("waiting for a slot: got %v, want timed_out since the caller gave up", got)
	}
	cancel(errors.New("shutting down"))
	if got := <-answer; got.Reason != tasks.TimedOut || got.Message != "the caller gave up: shutting down" {
		t.Errorf("in flight: got %v, want timed_out with the cause", got)
	}
}

// stopped is the context of a process that was stopped until the deadline passed,
// and whose timers have not fired yet.
type stopped struct{ context.Context }

func (stopped) Deadline() (time.Time, bool) { return time.Now().Add(-time.Second), true }

func TestClient_DeadlinePassed(t *testing.T) {
	t.Parallel()
	calls := 0
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) { calls++; say(200, `{"code":0}`)(w, r) })
	c := connect(t, srv.URL, func(*Config) {})
	if got := c.Release(stopped{t.Context()}, testUser, testLock); got.Reason != tasks.TimedOut || !got.NoServerReached || calls != 0 {
		t.Errorf("got %v after %d calls, want timed_out after none", got, calls)
	}
}

func TestClient_Concurrency(t *testing.T) {
	t.Parallel()
	const most, calls = 4, 64
	var mu sync.Mutex
	inFlight, peak, opened := 0, 0, 0
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		inFlight++
		peak = max(peak, inFlight)
		mu.Unlock()
		say(200, `{"code":0}`)(w, r)
		mu.Lock()
		inFlight--
		mu.Unlock()
	}))
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			mu.Lock()
			opened++
			mu.Unlock()
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	c := connect(t, srv.URL, func(cfg *Config) { cfg.Concurrency = most })
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() {
			if got := c.Unbind(t.Context(), testUser, fmt.Sprint("d-", i)); got.Reason != tasks.OK {
				t.Error(got)
			}
		})
	}
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	if peak > most {
		t.Errorf("%d calls in flight, want at most %d", peak, most)
	}
	// A connection goes back to the pool a moment after its answer was read, so
	// a call may open one that turns out not to be needed.
	if opened > 4*most {
		t.Errorf("got %d connections for %d calls, want about %d", opened, calls, most)
	}
}

func TestClient_TLSVersions(t *testing.T) {
	t.Parallel()
	for version, want := range map[uint16]tasks.Reason{
		tls.VersionTLS11: tasks.Network, tls.VersionTLS12: tasks.OK, tls.VersionTLS13: tasks.OK,
	} {
		srv := httptest.NewUnstartedServer(say(200, `{"code":0}`))
		srv.EnableHTTP2 = true
		srv.Config.ErrorLog = zap.NewStdLog(zap.NewNop())                        // the failed handshake is expected
		srv.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: version} //nolint:gosec // the old version is the point
		srv.StartTLS()
		t.Cleanup(srv.Close)
		pool := srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
		c := connect(t, srv.URL, func(cfg *Config) { cfg.TLS = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS10} }) //nolint:gosec // it is raised
		if got := c.Unbind(t.Context(), testUser, testDevice); got.Reason != want {
			t.Errorf("TLS %#x: got %v, want %s", version, got, want)
		}
	}
}

func TestClient_InvalidIDs(t *testing.T) {
	t.Parallel()
	srv := serve(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("%s %s was sent", r.Method, r.URL) })
	c := connect(t, srv.URL, nil)
	for _, id := range []string{"", ".", "..", "a\r\nX-Evil: 1", "\x00", " a", "ü"} {
		answers := []Answer{c.Unbind(t.Context(), testUser, id), c.Unbind(t.Context(), id, testDevice), c.Release(t.Context(), testUser, id)}
		_, list := c.Devices(t.Context(), id)
		for i, got := range append(answers, list) {
			if got.Reason != tasks.Invalid || got.Message == "" {
				t.Errorf("%q as argument of call %d: got %v, want invalid with a message", id, i, got)
			}
		}
	}
}
