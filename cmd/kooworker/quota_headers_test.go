package main

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kooworker/kooworker/internal/redistest"
)

// With --quota-headers, one call in many asks the gateway for the quota.
func TestWorker_QuotaHeaders(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for _, tc := range []struct {
		name, arg, env string
		want           bool
	}{
		{"default", "", "", false},
		{"flag", "--quota-headers", "", true},
		{"variable", "", "KOODRIVE_QUOTA_HEADERS=true", true},
	} {
		var mu sync.Mutex
		calls, asked := 0, 0
		api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			calls++
			if r.Header.Get("X-Apig-Mode") == "debug" {
				asked++
			}
			mu.Unlock()
			_, _ = w.Write([]byte(`{"code":0,"msg":"success"}`))
		}))
		t.Cleanup(api.Close)
		started := time.Now()
		args := []string{"worker", "--redis-url", server.URL(), "--koodrive-url", api.URL}
		if tc.arg != "" {
			args = append(args, tc.arg)
		}
		p := startProcess(t, []string{"KOODRIVE_TOKEN=t0ken", tc.env}, args...)
		newProducer(t, server.Client()).enqueueMany(t, 50)
		redistest.Eventually(t, 20*time.Second, "all calls are made", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return calls == 50
		})
		most := 0
		if tc.want {
			most = 1 + int(time.Since(started)/time.Second)
		}
		mu.Lock()
		if asked > most || (asked > 0) != tc.want {
			t.Errorf("%s: %d of %d calls asked for the quota; want at most %d, and some: %t", tc.name, asked, calls, most, tc.want)
		}
		mu.Unlock()
		if code := p.end(t, syscall.SIGTERM); code != exitDone {
			t.Errorf("%s: exit %d; want exit 0:\n%s", tc.name, code, p.log())
		}
	}
}
