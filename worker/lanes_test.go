package worker_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

// Files of unbinds wait, far more than KooDrive's quota carries. A release, an urgent unbind,
// a single one and a small batch begin all the same, and so do the tasks that an older
// version has left where single orders wait.
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
		if tokens < 1 && !strings.HasPrefix(target, "release") { // each API has its own quota
			return reply{429, nil, throttled.body}
		}
		tokens--
		what, _, _ := strings.Cut(target, "-")
		if begun[what].IsZero() {
			begun[what] = now
		}
		return done
	})
	b := setup(t, api.URL)
	b.cfg.Concurrency = 64
	client, err := enqueue.New(enqueue.Config{Redis: b.rdb})
	if err != nil {
		t.Fatal(err)
	}
	ordered := make(map[string]time.Time)
	unbind := func(what string, n int, spec *batch.Spec, opts ...enqueue.Option) {
		t.Helper()
		all := func(yield func(tasks.Task, error) bool) {
			for i := range n {
				if !yield(tasks.DeviceUnbind{UserID: fmt.Sprint("u-", i/3), DeviceID: fmt.Sprint(what, "-", i)}, nil) {
					return
				}
			}
		}
		ordered[what] = time.Now()
		if _, err := client.Bulk(t.Context(), all, enqueue.BulkOptions{Batch: spec, Options: opts}); err != nil {
			t.Fatal(err)
		}
	}
	hasBegun := func(what string) bool { mu.Lock(); defer mu.Unlock(); return !begun[what].IsZero() }
	unbind("bulk", 20_000, nil)
	unbind("batch", 20_000, &batch.Spec{ID: "large"})
	b.start()
	redistest.Eventually(t, settleIn, "the bulk and the batch begin", func() bool { return hasBegun("bulk") && hasBegun("batch") })
	<-time.After(3 * time.Second) // the quota is used

	unbind("small", 10, &batch.Spec{ID: "small"})
	unbind("urgent", 1, nil, enqueue.Urgent())
	for i := range 10 {
		ordered["release"] = time.Now()
		if _, err := client.Release(t.Context(), tasks.LockRelease{UserID: "u-1", LockID: fmt.Sprint("release-", i)}); err != nil {
			t.Fatal(err)
		}
	}
	ordered["single"] = time.Now()
	b.enqueue(tasks.DeviceUnbind{UserID: "u-1", DeviceID: "single-1"})
	for what, within := range map[string]time.Duration{"small": 5 * time.Second, "urgent": 2 * time.Second, "release": 2 * time.Second, "single": 2 * time.Second} {
		redistest.Eventually(t, settleIn, what+" begins", func() bool { return hasBegun(what) })
		mu.Lock()
		took := begun[what].Sub(ordered[what])
		mu.Unlock()
		t.Logf("%s began after %s", what, took.Round(time.Millisecond))
		if took > 2*within { // the machine may be busy
			t.Errorf("%s began after %s, while 40,000 unbinds wait; want %s", what, took, within)
		}
	}
}
