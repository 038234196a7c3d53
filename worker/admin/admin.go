// Package admin tells the operators of a process by HTTP whether the process is
// alive, whether it is ready, and what its metrics are. It answers GET only. It
// shows no task and no secret, and asks for no authorization: listen only on an
// address that nobody but the operators' network reaches.
//
//	/healthz   200 as long as the process serves at all
//	/readyz    200 if the process is ready and its checks pass, else 503 with their errors
//	/metrics   Prometheus
//
// It owns the HTTP server and its endpoints. Package worker starts and stops it,
// and says what to check. It imports nothing of this module.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

// Check is one condition of readiness. Its error is shown to everybody who calls
// /readyz, so the error must not contain a secret.
type Check func(ctx context.Context) error

// Config is what a Server needs.
type Config struct {
	Addr     string              // host:port to listen on; with port 0 the system picks a free port
	Checks   map[string]Check    // conditions of readiness, by name; default: none
	Gatherer prometheus.Gatherer // what /metrics shows
	Logger   *zap.Logger         // default: no logs
}

// Server serves the admin endpoints between Start and Stop.
type Server struct {
	cfg    Config
	http   *http.Server
	ready  atomic.Bool
	addr   atomic.Pointer[string]
	served chan struct{}
}

// New returns a server that does not listen yet.
func New(cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	s := &Server{cfg: cfg, served: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, report{Status: "ok"})
	})
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(cfg.Gatherer, promhttp.HandlerOpts{}))
	s.http = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute, // longer than Prometheus waits between two requests
		ErrorLog:          zap.NewStdLog(cfg.Logger.Named("admin")),
	}
	return s
}

// Start listens, and serves in the background until Stop.
func (s *Server) Start() error {
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", s.cfg.Addr)
	if err != nil {
		return fmt.Errorf("admin address: %w", err)
	}
	addr := listener.Addr().String()
	s.addr.Store(&addr)
	s.cfg.Logger.Info("admin server listens", zap.String("addr", addr))
	go func() {
		defer close(s.served)
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.cfg.Logger.Error("admin server ended", zap.Error(err))
		}
	}()
	return nil
}

// Addr returns the address that the server listens on, or "" before Start.
func (s *Server) Addr() string {
	if addr := s.addr.Load(); addr != nil {
		return *addr
	}
	return ""
}

// SetReady sets whether the process is ready; it is not ready at first.
func (s *Server) SetReady(ready bool) { s.ready.Store(ready) }

// stopTimeout is how long Stop waits for requests in flight.
const stopTimeout = 2 * time.Second

// Stop ends a server that was started, and returns when it has ended.
func (s *Server) Stop() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		_ = s.http.Close()
	}
	<-s.served
}

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	status, checks := http.StatusOK, map[string]string{}
	if !s.ready.Load() {
		status, checks["worker"] = http.StatusServiceUnavailable, "starting or stopping"
	}
	for name, check := range s.cfg.Checks {
		checks[name] = "ok"
		if err := check(r.Context()); err != nil {
			status, checks[name] = http.StatusServiceUnavailable, err.Error()
		}
	}
	word := "ready"
	if status != http.StatusOK {
		word = "not ready"
	}
	answer(w, status, report{Status: word, Checks: checks})
}

// report is the body of both health endpoints.
type report struct {
	Status string            `json:"status"`
	Checks map[string]string `json:"checks,omitempty"`
}

func answer(w http.ResponseWriter, status int, body report) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		return // the client closed the connection
	}
}
