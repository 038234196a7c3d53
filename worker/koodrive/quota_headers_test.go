package koodrive

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// asks returns how many of n requests, all at once, ask for the quota.
func asks(t *testing.T, c *Client, n int) (count int) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			req, err := c.request(context.Background(), call{method: http.MethodGet, path: "/device", userID: testUser})
			if err != nil {
				t.Error(err)
				return
			}
			values := req.Header.Values("X-Apig-Mode")
			if len(values) > 1 || len(values) == 1 && values[0] != "debug" {
				t.Errorf("got X-Apig-Mode %q, want debug or nothing", values)
			}
			mu.Lock()
			count += len(values)
			mu.Unlock()
		})
	}
	wg.Wait()
	return count
}

func TestClient_AsksForTheQuotaOnceASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := connect(t, "http://127.0.0.1:1", func(cfg *Config) { cfg.QuotaHeaders = true })
		for i, step := range []struct {
			wait time.Duration
			want int
		}{{0, 1}, {0, 0}, {999 * time.Millisecond, 0}, {time.Millisecond, 1}, {time.Minute, 1}, {0, 0}} {
			time.Sleep(step.wait) //nolint:forbidigo // virtual time
			if got := asks(t, c, 50); got != step.want {
				t.Errorf("step %d: %d of 50 requests ask for the quota, want %d", i+1, got, step.want)
			}
		}
	})
}

func TestClient_AsksForNoQuotaByDefault(t *testing.T) {
	t.Parallel()
	if got := asks(t, connect(t, "http://127.0.0.1:1", nil), 50); got > 0 {
		t.Errorf("%d of 50 requests ask for the quota, want none", got)
	}
}
