package enqueue_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/redistest"
)

// Redis hangs at the last step of a bulk: where the batch's input is closed, or where it
// is checked that nothing was lost.
func TestBulk_StopsInTimeAtItsEnd(t *testing.T) {
	t.Parallel()
	for name, spec := range map[string]*batch.Spec{"batch": {ID: "b-1"}, "no batch": nil} {
		b := setup(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		const n = 600
		seen := 0
		var stopped time.Time
		res, err := b.client.Bulk(ctx, unbinds(n), enqueue.BulkOptions{Batch: spec, OnItem: func(enqueue.Item) {
			if seen++; seen == n {
				b.redis.Freeze()
				time.AfterFunc(500*time.Millisecond, func() { stopped = time.Now(); cancel() })
			}
		}})
		if took := time.Since(stopped); !errors.Is(err, context.Canceled) || res.Total != n || took > 2500*time.Millisecond {
			t.Errorf("%s: %+v, %v after %s; want %d items, and the context's error before a call to Redis times out", name, res, err, took, n)
		}
		b.redis.Thaw()
	}
}

// Redis is away for a moment at the last step of a bulk.
func TestBulk_RepeatsItsLastStep(t *testing.T) {
	t.Parallel()
	for name, spec := range map[string]*batch.Spec{"batch": {ID: "b-1"}, "no batch": nil} {
		server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
		client, err := enqueue.New(enqueue.Config{Redis: server.Client()})
		if err != nil {
			t.Fatal(err)
		}
		const n = 600
		seen, restarted := 0, make(chan struct{})
		res, err := client.Bulk(t.Context(), unbinds(n), enqueue.BulkOptions{Batch: spec, OnItem: func(enqueue.Item) {
			if seen++; seen == n {
				server.Kill()
				time.AfterFunc(time.Second, func() { server.Restart(); close(restarted) })
			}
		}})
		<-restarted
		if err != nil || res.Total != n {
			t.Errorf("%s: %+v, %v; want %d items and no error", name, res, err, n)
		}
	}
}
