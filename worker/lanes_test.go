package worker_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

// Files of unbinds wait, far more than KooDrive's quota carries. A release, an urgent unbind,
// a single one and a small batch begin all the same.
func TestWorker_NothingWaitsForABulk(t *testing.T) {
	t.Parallel()
	const perSecond = 200
	var mu sync.Mutex
	begun := make(map[string]time.Time) // by what comes before the dash
	tokens, at := 0.0, time.Now()
	api := newStandIn(t, func(target string, _ int) reply {
		mu.Lock()
		defer mu.Unlock()
		now := time.Now()
		tokens, at = min(perSecond/10, tokens+now.Sub(at).Seconds()*perSecond), now
		what, _, _ := strings.Cut(target, "-")
		if begun[what].IsZero() {
			begun[what] = now // also if the quota happens to refuse this call
		}
		if tokens < 1 && what != "release" { // each API has its own quota
			return reply{429, nil, throttled.body}
		}
		tokens--
		return done
	})
	b := setup(t, api.URL)
	b.cfg.Concurrency = 64
	ordered := make(map[string]time.Time)
	unbind := func(what string, n int, lane tasks.Lane) {
		ordered[what] = time.Now()
		for i := range n {
			b.enqueue(tasks.DeviceUnbind{UserID: fmt.Sprint("u-", i/3), DeviceID: fmt.Sprint(what, "-", i)}, asynq.Queue(lane.Of(tasks.QueueUnbind)))
		}
	}
	hasBegun := func(what string) bool { mu.Lock(); defer mu.Unlock(); return !begun[what].IsZero() }
	lanes := tasks.BatchLanes()
	unbind("bulk", 4000, tasks.LaneBulk)
	unbind("batch", 4000, lanes[0])
	b.start()
	redistest.Eventually(t, settleIn, "the bulk and the batch begin", func() bool { return hasBegun("bulk") && hasBegun("batch") })
	<-time.After(3 * time.Second) // the quota is used

	unbind("small", 10, lanes[1])
	unbind("urgent", 1, tasks.LaneUrgent)
	unbind("single", 1, tasks.LaneSingle)
	ordered["release"] = time.Now()
	for i := range 10 {
		b.enqueue(tasks.LockRelease{UserID: "u-1", LockID: fmt.Sprint("release-", i)})
	}
	for what, within := range map[string]time.Duration{"small": 5 * time.Second, "urgent": 2 * time.Second, "release": 2 * time.Second, "single": 2 * time.Second} {
		redistest.Eventually(t, settleIn, what+" begins", func() bool { return hasBegun(what) })
		mu.Lock()
		took := begun[what].Sub(ordered[what])
		mu.Unlock()
		t.Logf("%s began after %s", what, took.Round(time.Millisecond))
		if took > 2*within { // the machine may be busy
			t.Errorf("%s began after %s, while thousands of unbinds wait; want %s", what, took, within)
		}
	}
}
