package koodrive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

func newBroker(t *testing.T, cfg BrokerConfig) *broker {
	t.Helper()
	source, err := TokenBroker(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b := source.(*broker)
	t.Cleanup(b.CloseIdleConnections)
	return b
}

// issue answers with a new token each time.
func issue(asked *atomic.Int32, expiresIn string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		say(200, fmt.Sprintf(`{"token":"%s-%d"%s}`, r.URL.Query().Get("user_id"), asked.Add(1), expiresIn))(w, r)
	}
}

func TestBroker_URLWithQueryAndUser(t *testing.T) {
	t.Parallel()
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if user != "me" || password != "hush" || r.URL.RawQuery != "key=a+b&user_id=u%261" || r.URL.Path != "/token" {
			t.Errorf("got %s:%s %s, want the user, password and query of the URL", user, password, r.URL)
		}
		say(200, `{"token":"tok"}`)(w, r)
	})
	b := newBroker(t, BrokerConfig{URL: strings.Replace(srv.URL, "//", "//me:hush@", 1) + "/token?key=a+b"})
	if got, err := b.Token(t.Context(), "u&1"); err != nil || got != "tok" {
		t.Errorf("got %q, %v; want tok", got, err)
	}
	if got := b.Redact("hush a b"); got != "[redacted] [redacted]" {
		t.Errorf("Redact: got %q, want both secrets replaced", got)
	}
}

func TestBroker_TokenExpires(t *testing.T) {
	t.Parallel()
	for expiresIn, use := range map[string]time.Duration{
		``:                    0,
		`,"expires_in":0`:     0,
		`,"expires_in":-9`:    0,
		`,"expires_in":4`:     0, // 5 s before its end is now
		`,"expires_in":20`:    15 * time.Second,
		`,"expires_in":300.0`: 270 * time.Second,
		`,"expires_in":1200`:  1140 * time.Second,
		`,"expires_in":1e300`: 24*time.Hour - time.Minute,
	} {
		var asked atomic.Int32
		b := newBroker(t, BrokerConfig{URL: serve(t, issue(&asked, expiresIn)).URL})
		now := time.Now()
		b.now = func() time.Time { return now }
		take := func(why, want string) {
			t.Helper()
			if got, err := b.Token(t.Context(), "u"); err != nil || got != want {
				t.Errorf("%s, %s: got %q, %v; want %q", expiresIn, why, got, err, want)
			}
		}
		take("at first", "u-1")
		if use == 0 {
			take("not cached", "u-2")
			continue
		}
		now = now.Add(use - 1)
		take("in time", "u-1")
		now = now.Add(1)
		take("too late", "u-2")
		b.Forget("u")
		take("after a refusal", "u-3")
	}
}

func TestBroker_FullCache(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	b := newBroker(t, BrokerConfig{URL: serve(t, issue(&asked, `,"expires_in":600`)).URL, CacheSize: 2})
	for _, user := range []string{"a", "b", "a", "c", "a", "b"} {
		if _, err := b.Token(t.Context(), user); err != nil {
			t.Fatal(err)
		}
	}
	if got := asked.Load(); got != 4 { // a, b, c, and b again
		t.Errorf("asked %d times, want 4", got)
	}
}

func TestBroker_ConcurrentCalls(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	arrived, release := make(chan struct{}), make(chan struct{})
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-release
		issue(&asked, `,"expires_in":600`)(w, r)
	})
	b := newBroker(t, BrokerConfig{URL: srv.URL})
	first, giveUp := context.WithCancel(t.Context())
	gaveUp := make(chan error)
	go func() { _, err := b.Token(first, "u"); gaveUp <- err }()
	<-arrived
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if got, err := b.Token(t.Context(), "u"); err != nil || got != "u-1" {
				t.Errorf("got %q, %v; want the token of the only request", got, err)
			}
		})
	}
	giveUp() // the caller that asked; the others wait on
	if err := <-gaveUp; !errors.Is(err, context.Canceled) {
		t.Errorf("the caller that gave up got %v, want %v", err, context.Canceled)
	}
	close(release)
	wg.Wait()
}

func TestBroker_ForgetDuringARequest(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	arrived, release := make(chan struct{}), make(chan struct{})
	b := newBroker(t, BrokerConfig{URL: serve(t, func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 1 {
			close(arrived)
			<-release
		}
		say(200, fmt.Sprintf(`{"token":"u-%d"}`, asked.Load()))(w, r)
	}).URL})
	early := make(chan error)
	go func() { _, err := b.Token(t.Context(), "u"); early <- err }()
	<-arrived
	b.Forget("u") // what the first question brings was issued before the refusal
	if got, err := b.Token(t.Context(), "u"); err != nil || got != "u-2" {
		t.Errorf("got %q, %v; want the token of a second request", got, err)
	}
	close(release)
	if err := <-early; err != nil {
		t.Error(err)
	}
}

func TestBroker_FailureIsNotRepeated(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	b := newBroker(t, BrokerConfig{URL: serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		say(503, "")(w, r)
	}).URL})
	got := throughBroker(t, b).Release(t.Context(), testUser, testLock)
	if got.Reason != tasks.Unauthorized || got.Message != "the token broker answered HTTP 503; want 200" || asked.Load() != 1 {
		t.Errorf("got %v after asking %d times, want unauthorized with the status after asking once", got, asked.Load())
	}
}

func TestBroker_Failures(t *testing.T) {
	t.Parallel()
	const hush = `{"token":"hush","expires_in":600}`
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		want    tasks.Reason
	}{
		"403": {say(403, hush), tasks.Forbidden},
		"404": {say(404, hush), tasks.Forbidden},
		"410": {say(410, hush), tasks.Forbidden},
		// Not the broker's own words, but those of a server in front of it.
		"default backend": {say(404, "default backend - 404 hush"), tasks.Unauthorized},
		"firewall":        {say(403, "<html>hush</html>"), tasks.Unauthorized},
		"empty 404":       {say(404, ""), tasks.Unauthorized},
		"empty 410":       {say(410, ""), tasks.Unauthorized},
		"null":            {say(404, "null"), tasks.Unauthorized},
		"text":            {say(404, `"hush"`), tasks.Unauthorized},
		"gateway":         {say(404, `{"error_code":"APIG.0101","error_msg":"hush"}`), tasks.Unauthorized},

		"401":        {say(401, hush), tasks.Unauthorized},
		"429":        {say(429, hush), tasks.Unauthorized},
		"500":        {say(500, hush), tasks.Unauthorized},
		"201":        {say(201, hush), tasks.Unauthorized},
		"redirect":   {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/hush", http.StatusFound) }, tasks.Unauthorized},
		"garbage":    {say(200, "hush"), tasks.Unauthorized},
		"no token":   {say(200, `{"access_token":"hush"}`), tasks.Unauthorized},
		"a number":   {say(200, `{"token":7}`), tasks.Unauthorized},
		"odd expiry": {say(200, `{"token":"hush","expires_in":"soon"}`), tasks.Unauthorized},
		"control":    {say(200, `{"token":"hush\nX-Evil: 1"}`), tasks.Unauthorized},
		"large":      {say(200, `{"token":"`+strings.Repeat("hush", maxBrokerAnswer)+`"}`), tasks.Unauthorized},
		"hangs up":   {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, tasks.Unauthorized},
		"no answer":  {hang, tasks.Unauthorized},
		"not HTTP": {func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = conn.Write([]byte(hush + "\r\n\r\n"))
			_ = conn.Close()
		}, tasks.Unauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := serve(t, tc.handler)
			cfg := BrokerConfig{URL: strings.Replace(srv.URL, "//", "//u:hush@", 1) + "?key=hush"}
			if name == "no answer" {
				cfg.Timeout = 50 * time.Millisecond
			}
			b := newBroker(t, cfg)
			got := throughBroker(t, b).Release(t.Context(), testUser, testLock)
			if got.Reason != tc.want || got.Status != 0 || got.Message == "" || strings.Contains(got.Error(), "hush") {
				t.Errorf("got %v, want %s", got, tc.want)
			}
			// Only the answer about the user is the task's own, and no sign that KooDrive works.
			if refused := got.RefusedWithoutCall(); refused != (tc.want == tasks.Forbidden) {
				t.Errorf("refused without a call: %t; want it for %s only", refused, tasks.Forbidden)
			}
		})
	}
	t.Run("unreachable", func(t *testing.T) {
		t.Parallel()
		b := newBroker(t, BrokerConfig{URL: "http://u:hush@127.0.0.1:1/hush?key=hush"})
		got := throughBroker(t, b).Release(t.Context(), testUser, testLock)
		if got.Reason != tasks.Unauthorized || !strings.Contains(got.Message, "cannot be reached") || strings.Contains(got.Error(), "hush") {
			t.Errorf("got %v, want unauthorized without a secret", got)
		}
	})
	t.Run("caller gives up", func(t *testing.T) {
		t.Parallel()
		b := newBroker(t, BrokerConfig{URL: serve(t, hang).URL, Timeout: 200 * time.Millisecond})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if got := throughBroker(t, b).Release(ctx, testUser, testLock); got.Reason != tasks.TimedOut {
			t.Errorf("got %v, want %s", got, tasks.TimedOut)
		}
		_, _ = b.Token(t.Context(), testUser) // until the question that it left behind has ended
	})
}

// throughBroker returns a client whose KooDrive must not be called.
func throughBroker(t *testing.T, b *broker) *Client {
	t.Helper()
	auth, err := NewTokenAuthorizer("", b)
	if err != nil {
		t.Fatal(err)
	}
	srv := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("KooDrive was called without a token") })
	return connect(t, srv.URL, func(cfg *Config) { cfg.Authorizer = auth })
}

func TestBroker_RefusedToken(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	b := newBroker(t, BrokerConfig{URL: serve(t, issue(&asked, `,"expires_in":600`)).URL})
	auth, err := NewTokenAuthorizer("", b)
	if err != nil {
		t.Fatal(err)
	}
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		say(401, `{"code":13000401,"msg":"bad token `+strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer+")+`"}`)(w, r)
	})
	c := connect(t, srv.URL, func(cfg *Config) { cfg.Authorizer = auth })
	if got := c.Release(t.Context(), testUser, testLock); got.Reason != tasks.Unauthorized || got.Message != "bad token [redacted]" {
		t.Errorf("got %v, want unauthorized without the token", got)
	}
	if got := asked.Load(); got != 2 {
		t.Errorf("asked %d times, want 2", got)
	}
}

func TestTokenBroker_WrongConfig(t *testing.T) {
	t.Parallel()
	for says, cfg := range map[string]BrokerConfig{
		"is missing":  {},
		"plain HTTP":  {URL: "http://u:hush@broker.example.com?key=hush"},
		"not a URL":   {URL: "https://u:hush@broker.example.com:hush"},
		"has user_id": {URL: "https://broker.example.com?user_id=hush"},
		"is negative": {URL: "https://broker.example.com", CacheSize: -1},
	} {
		if _, err := TokenBroker(cfg); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "hush") {
			t.Errorf("got %v, want %q", err, says)
		}
	}
	cfg := BrokerConfig{URL: "https://u:hush@broker.example.com"}
	encoded, err := json.Marshal(cfg)
	if err != nil || strings.Contains(fmt.Sprintf("%v %+v %#v %s %d %s", cfg, cfg, cfg, cfg, cfg, encoded), "hush") {
		t.Errorf("the configuration shows its secret, or %v; want neither", err)
	}
}
