package admin

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestNew_ClosesIdleConnections(t *testing.T) {
	t.Parallel()
	// Without a limit, connections that nobody uses stay open as long as the process.
	// Prometheus asks every minute at most, and may keep its connection.
	s := New(Config{Gatherer: prometheus.NewRegistry()})
	if got := s.http.IdleTimeout; got <= time.Minute || got > 10*time.Minute {
		t.Errorf("idle connections are closed after %s; want more than 1m, and at most 10m", got)
	}
}
