package admin_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/kooworker/kooworker/worker/admin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, checks map[string]admin.Check) *admin.Server {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "tests_total", Help: "Tests."}))
	s := admin.New(admin.Config{Addr: "127.0.0.1:0", Gatherer: registry, Checks: checks})
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func request(t *testing.T, s *admin.Server, method, path string) (code int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.Addr()+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

func TestServer_HealthAndReadiness(t *testing.T) {
	t.Parallel()
	broken := errors.New("no answer within 2s")
	var result error
	s := start(t, map[string]admin.Check{"redis": func(context.Context) error { return result }})
	for _, step := range []struct {
		name   string
		ready  bool
		check  error
		path   string
		status int
		body   string
	}{
		{"alive before it is ready", false, nil, "/healthz", 200, `{"status":"ok"}`},
		{"starting", false, nil, "/readyz", 503, `{"status":"not ready","checks":{"redis":"ok","worker":"starting or stopping"}}`},
		{"running", true, nil, "/readyz", 200, `{"status":"ready","checks":{"redis":"ok"}}`},
		{"a check fails", true, broken, "/readyz", 503, `{"status":"not ready","checks":{"redis":"no answer within 2s"}}`},
		{"a check fails and it is alive", true, broken, "/healthz", 200, `{"status":"ok"}`},
	} {
		s.SetReady(step.ready)
		result = step.check
		if status, body := request(t, s, http.MethodGet, step.path); status != step.status || strings.TrimSpace(body) != step.body {
			t.Errorf("%s: %d %s; want %d %s", step.name, status, body, step.status, step.body)
		}
	}
}

func TestServer_ServesItsPathsOnly(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	if status, body := request(t, s, http.MethodGet, "/metrics"); status != 200 || !strings.Contains(body, "tests_total 0") {
		t.Errorf("metrics: %d %s; want 200 and the registered counter", status, body)
	}
	for _, tc := range [][2]string{{http.MethodPost, "/healthz"}, {http.MethodGet, "/debug/pprof/"}, {http.MethodGet, "/"}} {
		if status, _ := request(t, s, tc[0], tc[1]); status < 400 {
			t.Errorf("%s %s: %d; want 400 or more", tc[0], tc[1], status)
		}
	}
}

func TestStart_AddressInUse(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	second := admin.New(admin.Config{Addr: s.Addr(), Gatherer: prometheus.NewRegistry()})
	if err := second.Start(); err == nil || !strings.Contains(err.Error(), "admin address") {
		t.Errorf("%v; want an error about the admin address", err)
	}
}
