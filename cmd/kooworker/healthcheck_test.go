package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kooworker/kooworker/internal/redistest"
)

// TestHealthcheck_Worker asks a worker process while its Redis answers, while it hangs,
// and when the worker is gone.
func TestHealthcheck_Worker(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	_, url := startSimulator(t)
	addr := freeAddr(t)
	worker := startWorker(t, server, url, "--admin-addr", addr)

	redistest.Eventually(t, 20*time.Second, "the worker is ready", func() bool {
		return kooworker(t, "", "healthcheck", "--admin-addr", addr).code == exitDone
	})
	if r := kooworker(t, "", "healthcheck", "--url", "http://"+addr+"/readyz", "--timeout", "20s"); r.code != exitDone || r.stdout != "ready\n" || r.stderr != "" {
		t.Errorf("%+v; want exit code 0 and the one word ready", r)
	}

	server.Freeze()
	redistest.Eventually(t, 30*time.Second, "the check redis fails", func() bool {
		r := kooworker(t, "", "healthcheck", "--admin-addr", addr, "--timeout", "20s")
		return r.code == exitFailed && strings.Contains(r.stderr, "status 503, redis: ") && strings.Count(r.stderr, "\n") == 1
	})
	if r := kooworker(t, "", "healthcheck", "--url", "http://"+addr+"/healthz", "--timeout", "20s"); r.code != exitDone || r.stdout != "ok\n" {
		t.Errorf("/healthz: %+v; want it to be well, because the process lives", r)
	}
	server.Thaw()

	worker.end(t, syscall.SIGTERM)
	if r := kooworker(t, "", "healthcheck", "--admin-addr", addr); r.code != exitFailed || !strings.Contains(r.stderr, "refused") || !strings.Contains(r.stderr, "hint: ") {
		t.Errorf("%+v; want exit code 1, that the connection is refused, and a hint", r)
	}
}

// freeAddr returns an address of loopback that nobody listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

// TestHealthcheck_OtherAnswers checks that nothing but the admin server's own 200 counts
// as healthy.
func TestHealthcheck_OtherAnswers(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/html":
			_, _ = w.Write([]byte("<html>welcome</html>"))
		case "/redirect":
			http.Redirect(w, r, "/fine", http.StatusFound)
		case "/fine":
			_, _ = w.Write([]byte(`{"status":"ready"}`))
		case "/two":
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(`{"status":"not ready","checks":{"redis":"no\nanswer","clock":"ok","worker":"starting or stopping"}}`))
		case "/hangs":
			<-release
		}
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(release) })
	for path, want := range map[string]struct {
		code int
		text string
	}{
		"/fine":     {exitDone, "ready"},
		"/html":     {exitFailed, "not the answer of kooworker"},
		"/redirect": {exitFailed, "status 302"},
		"/two":      {exitFailed, "status 503, redis: no answer; worker: starting or stopping"},
		"/hangs":    {exitFailed, "no answer within 200ms"},
	} {
		timeout := "20s"
		if path == "/hangs" {
			timeout = "200ms"
		}
		r := kooworker(t, "", "healthcheck", "--url", server.URL+path, "--timeout", timeout)
		if r.code != want.code || !strings.Contains(r.stdout+r.stderr, want.text) {
			t.Errorf("%s: %+v; want exit code %d and %q", path, r, want.code, want.text)
		}
	}
}

func TestHealthcheckCmd_Target(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		":8080":          "http://127.0.0.1:8080/readyz",
		"0.0.0.0:8080":   "http://127.0.0.1:8080/readyz",
		"[::]:8080":      "http://[::1]:8080/readyz",
		"127.0.0.1:9090": "http://127.0.0.1:9090/readyz",
		"worker:1":       "http://worker:1/readyz",
	} {
		target, err := (&healthcheckCmd{AdminAddr: addr}).target()
		if err != nil || target.String() != want {
			t.Errorf("%s: %v, %v; want %s", addr, target, err, want)
		}
	}
	for _, args := range [][]string{
		{"--url", "127.0.0.1:8080"}, {"--url", "ftp://host/"}, {"--url", "http://"}, {"--admin-addr", "8080"}, {"--timeout", "0s"},
	} {
		if r := kooworker(t, "", append([]string{"healthcheck"}, args...)...); r.code != exitUsage {
			t.Errorf("%v: %+v; want exit code %d", args, r, exitUsage)
		}
	}
}
