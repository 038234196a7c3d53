package enqueue_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/enqueue/batch"
)

// halfway lets Redis store all, and say that it has failed for every second script, and at last for all of them.
type halfway struct{ scripts atomic.Int64 }

const lastScript = 1500

var errHalfway = errors.New("LOADING Redis is loading the dataset in memory")

func (*halfway) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (*halfway) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (h *halfway) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		for _, cmd := range cmds {
			if cmd.Name() != "evalsha" || cmd.Err() != nil {
				continue
			}
			if n := h.scripts.Add(1); n%2 == 0 || n > lastScript {
				cmd.SetErr(errHalfway)
				err = errHalfway
			}
		}
		return err
	}
}

// A Redis that fails for a part of each exchange until the bulk gives up: that is
// an error, and who resumes finds what was stored.
func TestBulkGivesUpHalfway(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const n = 1000
	failing := b.redis.Client()
	failing.AddHook(&halfway{})
	client, err := enqueue.New(enqueue.Config{Redis: failing})
	if err != nil {
		t.Fatal(err)
	}
	spec := &batch.Spec{ID: "halfway"}
	if res, err := client.Bulk(t.Context(), unbinds(n), enqueue.BulkOptions{Batch: spec, Timeout: time.Second}); err == nil || res.Enqueued == n {
		t.Errorf("%+v, %v; want an error", res, err)
	}
	res, err := b.client.Bulk(t.Context(), unbinds(n), enqueue.BulkOptions{Batch: spec})
	if err != nil || res.Enqueued+res.Skipped != n {
		t.Errorf("again: %+v, %v", res, err)
	}
	if got := len(b.queued(t)); got != n {
		t.Errorf("%d are queued; want %d", got, n)
	}
}
