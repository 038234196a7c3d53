package enqueue_test

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/enqueue/batch"
)

// halfway is a hook that lets Redis carry out every script, but replaces the reply
// of every second script by an error, and that of every script after the last one.
type halfway struct{ scripts atomic.Int64 }

const lastScript = 8 // a script stores a hundred tasks

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

// Redis fails for a part of each exchange until the bulk gives up. That is an
// error, and a bulk that resumes finds what was stored.
func TestBulk_GivesUp(t *testing.T) {
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
		t.Errorf("again: %+v, %v; want every item enqueued or skipped", res, err)
	}
	if got := len(b.queued(t)); got != n {
		t.Errorf("%d tasks are queued; want %d", got, n)
	}
}

// lostReplies is a hook that loses the replies of every third exchange.
type lostReplies struct{ exchanges atomic.Int64 }

func (*lostReplies) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (*lostReplies) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (h *lostReplies) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		if h.exchanges.Add(1)%3 == 0 {
			err = io.ErrUnexpectedEOF
			for _, cmd := range cmds {
				cmd.SetErr(err)
			}
		}
		return err
	}
}
