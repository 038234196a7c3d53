package monitoring_test

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/kooworker/kooworker/tasks"
)

var (
	nonceInPolicy = regexp.MustCompile(`script-src 'nonce-([A-Z2-7]{26})'; style-src 'self' 'nonce-([A-Z2-7]{26})';`)
	scriptTag     = regexp.MustCompile(`<script[^>]*>`)
	loaded        = regexp.MustCompile(`(?:src|href)="([^"]*)"`)
)

// policyOf returns the nonce of an answer.
func policyOf(t *testing.T, h http.Header) (nonce string) {
	t.Helper()
	policy := h.Get("Content-Security-Policy")
	m := nonceInPolicy.FindStringSubmatch(policy)
	if m == nil || m[1] != m[2] {
		t.Fatalf("the policy is %q; want a nonce", policy)
	}
	for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'", "connect-src 'self'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("the policy is %q; want %s", policy, want)
		}
	}
	if strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") || strings.Contains(policy, "http") {
		t.Errorf("the policy is %q; want nothing unsafe, and no other host", policy)
	}
	return m[1]
}

func TestPage(t *testing.T) {
	t.Parallel()
	b := setup(t)
	w := b.serve(operator, http.MethodGet, root+"/")
	b.want(w, http.StatusOK, `window.FLAG_READ_ONLY="false"`, `<a href="/koo/dead">Dead letters</a>`)
	nonce, page := policyOf(t, w.Header()), w.Body.String()
	if again := policyOf(t, b.serve(operator, http.MethodGet, root+"/").Header()); again == nonce {
		t.Errorf("two answers have the nonce %s; want another one in each", nonce)
	}
	scripts := scriptTag.FindAllString(page, -1)
	for _, tag := range scripts {
		if !strings.Contains(tag, `nonce="`+nonce+`"`) {
			t.Errorf("%s has another nonce than the policy, %s", tag, nonce)
		}
	}
	if len(scripts) != 5 || !strings.Contains(page, `<meta property="csp-nonce" content="`+nonce+`"/>`) {
		t.Errorf("%d scripts; want asynqmon's four and ours, and the nonce for Material UI:\n%.2000s", len(scripts), page)
	}
	if strings.Contains(page, "//fonts.") || strings.Contains(page, "https:") || strings.Contains(page, "http:") || strings.Contains(page, `rel="manifest"`) || strings.Contains(page, "style=") {
		t.Errorf("the page names another host, the manifest, or has a style of its own:\n%.2000s", page)
	}
	for _, m := range loaded.FindAllStringSubmatch(page, -1) {
		if strings.HasPrefix(m[1], root+"/") {
			b.want(b.serve(viewer, http.MethodGet, m[1]), http.StatusOK)
		} else if !strings.HasPrefix(m[1], "/koo/") {
			t.Errorf("the page loads or links %q; want what is below %s", m[1], root)
		}
	}
	b.want(b.serve(viewer, http.MethodGet, root+"/"), http.StatusOK, `window.FLAG_READ_ONLY="true"`)
}

// A reverse proxy may take the prefix off. The page names it all the same.
func TestServe_PrefixTakenOff(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.put(tasks.QueueUnbind, "retry", "x")
	b.want(b.serve(viewer, http.MethodGet, "/monitoring/queues/unbind?status=retry"), http.StatusOK, `src="`+root+`/static/js/`)
	b.want(b.serve(viewer, http.MethodGet, "/monitoring"), http.StatusOK, `<div id="root"></div>`)
	b.want(b.serve(viewer, http.MethodGet, "/monitoring/api/queues/unbind/retry_tasks"), http.StatusOK, `"id":"x"`)
	b.want(b.serve(viewer, http.MethodPost, "/monitoring/api/queues/unbind/retry_tasks/x:run"), http.StatusForbidden)
	b.want(b.serve(operator, http.MethodPost, "/monitoring/api/queues/unbind/retry_tasks/x:run"), http.StatusNoContent)
	b.want(b.serve(viewer, http.MethodGet, "/monitoring/static/js/main.5adda2da.chunk.js"), http.StatusOK)
	b.want(b.serve(viewer, http.MethodGet, "/monitoringx/api/queues"), http.StatusNotFound)
}

// A deep link is answered with the page, whose script reads the rest of the path.
func TestPage_DeepLinks(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, path := range []string{
		"", "/", "/queues/dead-letter?status=retry", "/queues/dead-letter/?status=retry", "/queues/unbind", "/queues/dead-letter/tasks/device:unbind:u~2f~x:d", "/servers", "/servers/",
		"/schedulers", "/redis", "/settings", "/no/such/page", "/queues/unbind/tasks/a.js", "/queues/unbind/tasks/user@example.com:d", "/index.html", "/static",
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			w := b.serve(viewer, method, root+path)
			b.want(w, http.StatusOK, `<div id="root"></div>`)
			policyOf(t, w.Header())
			if h := w.Header(); h.Get("Cache-Control") != "no-store" || h.Get("Content-Type") != "text/html; charset=utf-8" {
				t.Errorf("%s %s: %v; want a page that is not kept", method, path, h)
			}
		}
	}
	if w := b.serve(viewer, http.MethodGet, root+"/q/metrics"); w.Code != http.StatusSeeOther || w.Header().Get("Location") != root+"/" {
		t.Errorf("the page of metrics: %d %v; want a redirect to the first page", w.Code, w.Header())
	}
}

func TestFiles(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const oneYear = "private, max-age=31536000, immutable"
	for path, want := range map[string][2]string{
		"/static/js/main.5adda2da.chunk.js":           {"text/javascript; charset=utf-8", oneYear},
		"/static/media/logo-color.c2b0c1f3.svg":       {"image/svg+xml", oneYear},
		"/favicon.ico":                                {"image/x-icon", "private, max-age=3600"},
		"/kooworker/monitoring.js":                    {"text/javascript; charset=utf-8", "private, max-age=3600"},
		"/kooworker/monitoring.css":                   {"text/css; charset=utf-8", "private, max-age=3600"},
		"/static/../static/js/main.5adda2da.chunk.js": {"text/javascript; charset=utf-8", oneYear},
	} {
		w := b.serve(viewer, http.MethodGet, root+path)
		b.want(w, http.StatusOK)
		if h := w.Header(); h.Get("Content-Type") != want[0] || h.Get("Cache-Control") != want[1] || w.Body.Len() == 0 {
			t.Errorf("%s: %d bytes, %v; want %v", path, w.Body.Len(), h, want)
		}
	}
	for _, path := range []string{"/static/js/none.js", "/static/", "/static/js", "/kooworker/", "/kooworker/head.html", "/kooworker/../page.go", "/kooworker/../../assets/monitoring.js", "/kooworker/none.css"} {
		if w := b.serve(operator, http.MethodGet, root+path); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d %.100s; want 404", path, w.Code, w.Body)
		}
	}
	for _, path := range []string{"/../../../../etc/passwd.txt", "/..%2f..%2fetc/passwd.txt", "/static/js/../../../../handler.go", "/%2e%2e/go.mod.txt", "/....//robots.txt"} {
		w := b.serve(operator, http.MethodGet, root+path)
		if body := w.Body.String(); strings.Contains(body, "root:") || strings.Contains(body, "package asynqmon") {
			t.Errorf("%s: %d %.100s; want no file from elsewhere", path, w.Code, body)
		}
	}
}

// The headers that all answers have, whatever they are.
func TestServe_Headers(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, c := range []struct{ method, path string }{
		{"GET", "/"}, {"GET", "/api/queues"}, {"GET", "/api/none"}, {"GET", "/favicon.ico"}, {"POST", "/api/queues/unbind:pause"}, {"DELETE", "/api/queues/unbind"}, {"OPTIONS", "/api/queues"},
	} {
		r := httptest.NewRequestWithContext(t.Context(), c.method, root+c.path, nil)
		r.Header.Set("Origin", "https://other.example")
		w := httptest.NewRecorder()
		b.handler.Serve(w, r, operator)
		h := w.Header()
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin", "Access-Control-Allow-Origin": ""} {
			if got := h.Get(name); got != want {
				t.Errorf("%s %s: %s is %q; want %q", c.method, c.path, name, got, want)
			}
		}
		if policy := h.Get("Content-Security-Policy"); !strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, "frame-ancestors 'none'") {
			t.Errorf("%s %s: the policy is %q", c.method, c.path, policy)
		}
	}
}

// Over a connection, HEAD has the headers of GET and no body.
func TestServe_Head(t *testing.T) {
	t.Parallel()
	b := setup(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { b.handler.Serve(w, r, viewer) }))
	t.Cleanup(server.Close)
	for _, path := range []string{"/", "/api/queues", "/favicon.ico", "/static/js/main.5adda2da.chunk.js"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodHead, server.URL+root+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") == "" {
			t.Errorf("HEAD %s: %s %v; want 200", path, resp.Status, resp.Header)
		}
	}
}
