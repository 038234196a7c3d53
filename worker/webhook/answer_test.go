package webhook

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

func TestSend_Statuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		status  int
		body    string
		reason  tasks.Reason
		message string
		hint    string // a part of it
	}{
		{200, "fine", tasks.OK, "", ""},
		{202, "", tasks.OK, "", ""},
		{299, strings.Repeat("x", 3*maxAnswer), tasks.OK, "", ""},
		{300, "", tasks.Upstream, "HTTP 300", "redirects are not followed"},
		{304, "", tasks.Upstream, "HTTP 304", "redirects are not followed"},
		{400, "unknown batch\n", tasks.Rejected, "HTTP 400: unknown batch", "look into its log"},
		{401, "bad signature", tasks.Rejected, "HTTP 401: bad signature", "compare the secret"},
		{403, "", tasks.Rejected, "HTTP 403", "compare the secret"},
		{404, "404 page not found\n", tasks.Rejected, "HTTP 404: 404 page not found", "URL"},
		{405, "", tasks.Rejected, "HTTP 405", "URL"},
		{407, "", tasks.Rejected, "HTTP 407", "HTTP_PROXY"},
		{408, "", tasks.Upstream, "HTTP 408", ""},
		{410, "", tasks.Rejected, "HTTP 410", "no more webhooks"},
		{425, "", tasks.Upstream, "HTTP 425", ""},
		{429, "slow down", tasks.Upstream, "HTTP 429: slow down", ""},
		{499, "", tasks.Rejected, "HTTP 499", "look into its log"},
		{500, `{"error":"out of order"}`, tasks.Upstream, `HTTP 500: {"error":"out of order"}`, ""},
		{502, "<html>\n<h1>Bad gateway</h1>\n</html>", tasks.Upstream, "HTTP 502", ""},
		{503, strings.Repeat("ü", maxExcerpt), tasks.Upstream, "HTTP 503: " + strings.Repeat("ü", maxExcerpt), ""},
		{503, strings.Repeat("ü", maxExcerpt+1), tasks.Upstream, "HTTP 503", ""},
		{503, strings.Repeat("x", 3*maxAnswer), tasks.Upstream, "HTTP 503", ""},
		{599, "", tasks.Upstream, "HTTP 599", ""},
		{600, "", tasks.Protocol, "HTTP 600", "makes no sense"},
		{999, "", tasks.Protocol, "HTTP 999", "makes no sense"},
	} {
		a := connect(t, serve(t, say(tc.status, tc.body)).URL, nil).Send(t.Context(), testID, []byte(testBody))
		if a.Reason != tc.reason || a.Message != tc.message || !strings.Contains(a.Hint, tc.hint) || (tc.hint == "") != (a.Hint == "") {
			t.Errorf("%d %.40q: got %+v, want %s, %q and a hint with %q", tc.status, tc.body, a, tc.reason, tc.message, tc.hint)
		}
		if !a.Reason.Known() {
			t.Errorf("%d: got the reason %q, want a known one", tc.status, a.Reason)
		}
	}
}

func TestSend_Redirects(t *testing.T) {
	t.Parallel()
	for _, status := range []int{301, 302, 303, 307, 308} {
		var followed atomic.Bool
		target := serve(t, func(http.ResponseWriter, *http.Request) { followed.Store(true) })
		srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, target.URL+"/elsewhere?with=this", status)
		})
		a := connect(t, srv.URL, nil).Send(t.Context(), testID, []byte(testBody))
		if followed.Load() || a.Reason != tasks.Upstream || !strings.HasSuffix(a.Message, ", a redirect to "+target.URL) ||
			!strings.Contains(a.Hint, "redirects are not followed") {
			t.Errorf("%d: got %+v, want upstream with the origin, and not followed", status, a)
		}
	}
}

func TestSend_RetryAfter(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]time.Duration{200: 0, 302: 7 * time.Second, 404: 0, 429: 7 * time.Second, 503: 7 * time.Second} {
		srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(status)
		})
		if a := connect(t, srv.URL, nil).Send(t.Context(), testID, []byte(testBody)); a.RetryAfter != want {
			t.Errorf("%d: got %s, want %s", status, a.RetryAfter, want)
		}
	}
}

func TestSend_TLS(t *testing.T) {
	t.Parallel()
	srv, trust := serveTLS(t, tls.VersionTLS12, say(200, ""))
	old, trustOld := serveTLS(t, tls.VersionTLS11, say(200, ""))
	for name, tc := range map[string]struct {
		url     string
		trust   func(*Sender)
		reason  tasks.Reason
		message string // a part of it
	}{
		"trusted":   {srv.URL, trust, tasks.OK, ""},
		"unknown":   {srv.URL, func(*Sender) {}, tasks.Network, "certificate"},
		"old":       {old.URL, trustOld, tasks.Network, "protocol version"},
		"plain":     {strings.Replace(serve(t, say(200, "")).URL, "http:", "https:", 1), trust, tasks.Network, "does not speak TLS"},
		"too plain": {strings.Replace(srv.URL, "https:", "http:", 1), trust, tasks.Rejected, "Client sent an HTTP request to an HTTPS server"},
	} {
		s := connect(t, tc.url, nil)
		tc.trust(s)
		if a := s.Send(t.Context(), testID, []byte(testBody)); a.Reason != tc.reason || !strings.Contains(a.Message, tc.message) {
			t.Errorf("%s: got %+v, want %s with %q", name, a, tc.reason, tc.message)
		}
	}
}

func TestSend_NoAnswer(t *testing.T) {
	t.Parallel()
	closed := serve(t, nil)
	closed.Close()
	for name, tc := range map[string]struct {
		url     string
		message string // a part of it
	}{
		"refused":        {closed.URL, "connection refused"},
		"hung up":        {raw(t, "", false).URL, "closed without a complete answer"},
		"not HTTP":       {raw(t, "220 mail.example.com ESMTP\n\n", false).URL, "no proper HTTP answer"},
		"broken header":  {raw(t, "HTTP/1.1 200 OK\nno header\n\n", false).URL, "no proper HTTP answer"},
		"endless header": {raw(t, "HTTP/1.1 200 OK\nX: "+strings.Repeat("x", 1<<20)+"\n\n", false).URL, "no proper HTTP answer"},
	} {
		a := connect(t, tc.url, nil).Send(t.Context(), testID, []byte(testBody))
		if a.Reason != tasks.Network || !strings.Contains(a.Message, tc.message) || a.Hint == "" {
			t.Errorf("%s: got %+v, want network with %q and a hint", name, a, tc.message)
		}
	}
}

func TestSend_UnknownHost(t *testing.T) {
	t.Parallel()
	s := connect(t, "https://hooks.example.com/x", nil)
	s.transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "hooks.example.com", IsNotFound: true}}
	}
	s.transport.Proxy = nil
	if a := s.Send(t.Context(), testID, []byte(testBody)); a.Reason != tasks.Network ||
		a.Message != "dial tcp: lookup hooks.example.com: no such host" {
		t.Errorf("got %+v, want network with the name", a)
	}
}

// The status decides, even if the body breaks off.
func TestSend_BrokenBody(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]Answer{
		"HTTP/1.1 200 OK\nContent-Length: 99\n\nbro":                                       {Reason: tasks.OK},
		"HTTP/1.1 429 Too Many Requests\nContent-Length: 99\n\nbro":                        {Reason: tasks.Upstream, Message: "HTTP 429"},
		"HTTP/1.1 103 Early Hints\n\nHTTP/1.1 204 No Content\n\n":                          {Reason: tasks.OK},
		"HTTP/1.1 500 sec\nret\n\nHTTP/1.1 200 OK\n\n":                                     {Reason: tasks.Network, Message: "no proper HTTP answer, from the receiver or from a proxy on the way", Hint: hintNetwork},
		"HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: x\n\nnow speak x": {Reason: tasks.Protocol, Message: "HTTP 101", Hint: hintOf(101)},
	} {
		s := connect(t, raw(t, answer, strings.Contains(answer, "101")).URL, func(cfg *Config) { cfg.Timeout = time.Hour })
		if a := sendSoon(t.Context(), t, s); a != want {
			t.Errorf("%q: got %+v, want %+v", answer, a, want)
		}
	}
}

// net/http's error holds what a proxy answers to CONNECT.
func TestSend_ProxyRefuses(t *testing.T) {
	t.Parallel()
	proxy, err := url.Parse(raw(t, "HTTP/1.1 407 me:s3cret is unknown\n\n", false).URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy.User = url.UserPassword("me", "s3cret")
	s := connect(t, "https://hooks.example.com/x", nil)
	s.transport.Proxy = http.ProxyURL(proxy)
	a := s.Send(t.Context(), testID, []byte(testBody))
	if a.Reason != tasks.Network || a.Message != "no proper HTTP answer, from the receiver or from a proxy on the way" {
		t.Errorf("got %+v, want network without what the proxy said", a)
	}
}
