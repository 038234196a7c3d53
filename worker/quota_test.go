package worker_test

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/kooworker/kooworker/internal/redistest"
)

// A worker uses a quota that nobody has told it of, over real Redis and HTTP.
func TestWorker_UsesASilentQuota(t *testing.T) {
	t.Parallel()
	const perSecond, room, warmUp, measured = 200, 20, 5 * time.Second, 5 * time.Second
	var (
		mu              sync.Mutex
		tokens          float64 = room
		at, start       time.Time
		passed, refused int
	)
	silent := reply{429, nil, throttled.body}
	api := newStandIn(t, func(string, int) reply {
		mu.Lock()
		defer mu.Unlock()
		now := time.Now()
		if start.IsZero() {
			start, at = now, now
		}
		tokens = min(room, tokens+now.Sub(at).Seconds()*perSecond)
		at = now
		isMeasured := now.Sub(start) > warmUp && now.Sub(start) <= warmUp+measured
		if tokens < 1 {
			if isMeasured {
				refused++
			}
			return silent
		}
		tokens--
		if isMeasured {
			passed++
		}
		return done
	})
	b := setup(t, api.URL)
	for i := range perSecond * 15 {
		b.enqueue(unbindTask(i))
	}
	b.start()
	redistest.Eventually(t, settleIn, "the time to measure is over", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return !start.IsZero() && time.Since(start) > warmUp+measured
	})
	mu.Lock()
	defer mu.Unlock()
	share := float64(passed) / (perSecond * measured.Seconds())
	t.Logf("%.1f %% of the quota, %.1f %% refused", 100*share, 100*float64(refused)/float64(passed+refused))
	if share < 0.7 || refused > passed/10 {
		t.Errorf("%d passed, %d refused; want at least 70 %% of the quota and at most 10 %% refused, even on a busy machine", passed, refused)
	}
}

// A worker says how many like it would be of use, as soon as it knows how long calls take.
func TestWorker_SaysHowManyWorkersAreWanted(t *testing.T) {
	t.Parallel()
	const n, takes = 3000, 500 * time.Millisecond // 2.5 calls in flight for ten minutes
	api := newStandIn(t, always(done))
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-time.After(takes)
		api.ServeHTTP(w, r)
	}))
	t.Cleanup(slow.Close)
	b := setup(t, slow.URL)
	b.cfg.Concurrency = 1
	for i := range n {
		b.enqueue(unbindTask(i))
	}
	b.start()
	redistest.Eventually(t, settleIn, "three workers are wanted", func() bool { return b.metric("kooworker_workers_wanted", nil) >= 3 })
}
