package worker_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// newServer serves a handler for the time of a test and returns its URL.
func newServer(t *testing.T, handler http.Handler) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}
