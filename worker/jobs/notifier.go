package jobs

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
)

// BatchNotifier announces that a batch is complete. It writes a line to the log,
// and enqueues a task for the webhook. So the webhook is visible in the queue, is
// retried, and becomes a dead letter if it fails for good.
//
// If the workers are changed one after the other, some have a webhook and some have
// none. Then those without one leave the announcement to the others. They see in
// Redis whether a worker with a webhook runs.
type BatchNotifier struct {
	rdb       redis.UniversalClient
	batches   *batch.Store
	webhook   bool
	log       *zap.Logger
	completed chan string // batches; with room for some
}

// NewBatchNotifier returns a BatchNotifier. Without a webhook it only writes to
// the log.
func NewBatchNotifier(rdb redis.UniversalClient, webhook bool, log *zap.Logger) *BatchNotifier {
	return &BatchNotifier{rdb: rdb, batches: batch.NewStore(rdb), webhook: webhook, log: log, completed: make(chan string, 1000)}
}

// scanEvery is how often the notifier looks at all open batches. A producer that
// closes its input may complete a batch, and a worker that completed one may have
// died before it announced the batch.
const scanEvery = 10 * time.Second

// webhookTTL is for how long a worker with a webhook is remembered after its last
// scan, so that its restart loses no webhook. If the last worker with a webhook is
// replaced by one without, the next completions are announced so much later.
const webhookTTL = 5 * time.Minute

// Completed tells the notifier that these batches are complete. It does not block:
// what there is no room for is left to the next scan.
func (n *BatchNotifier) Completed(ids ...string) {
	for _, id := range ids {
		select {
		case n.completed <- id:
		default:
		}
	}
}

const (
	// dropIdleEvery is how often the notifier looks for batches whose producers have
	// died. The first time is dropIdleAfter after the start.
	dropIdleEvery, dropIdleAfter = time.Hour, time.Minute
	// idleFor is how long nothing must have happened to such a batch.
	idleFor = 7 * 24 * time.Hour
)

// Run announces complete batches until ctx ends.
func (n *BatchNotifier) Run(ctx context.Context) {
	tick, idle := time.NewTicker(scanEvery), time.NewTimer(dropIdleAfter)
	defer tick.Stop()
	defer idle.Stop()
	n.notify(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			n.notify(ctx)
		case <-idle.C:
			n.dropIdle(ctx)
			idle.Reset(dropIdleEvery)
		case id := <-n.completed:
			ids := []string{id}
			for range len(n.completed) { // only this goroutine receives
				ids = append(ids, <-n.completed)
			}
			n.notify(ctx, ids...)
		}
	}
}

// notify announces those of the batches that are complete; without ids, those of
// all open batches. What fails is left to the next scan.
func (n *BatchNotifier) notify(ctx context.Context, ids ...string) {
	limited, cancel := context.WithTimeout(ctx, scanEvery)
	defer cancel()
	var notified []tasks.BatchStats
	mine, err := n.announces(limited)
	if mine {
		notified, err = n.batches.DrainCompleted(limited, n.enqueueWebhook, ids...)
	}
	for _, b := range notified {
		n.log.Info("batch complete", zap.String("batch", b.ID), zap.Int64("total", b.Total), zap.Int64("succeeded", b.Succeeded),
			zap.Int64("already_gone", b.AlreadyGone), zap.Int64("superseded", b.Superseded), zap.Int64("cancelled", b.Cancelled), zap.Int64("dead", b.Dead),
			zap.Int64("discarded", b.Discarded), zap.Int64("duplicate", b.Duplicate), zap.Int64("rejected", b.Rejected))
		if b.GoneWarning() != "" {
			n.log.Warn("most tasks of the batch were already gone: are the ids right?", zap.String("batch", b.ID), zap.Int64("total", b.Total), zap.Int64("already_gone", b.AlreadyGone))
		}
	}
	if err != nil && ctx.Err() == nil {
		n.log.Warn("cannot announce complete batches; trying again", zap.Error(err))
	}
}

// announces reports whether this worker announces complete batches. If it has a
// webhook, announces records that first: otherwise a worker without one could take
// the next batch.
func (n *BatchNotifier) announces(ctx context.Context) (bool, error) {
	if n.webhook {
		err := n.batches.WebhookHeartbeat(ctx, webhookTTL)
		return err == nil, err
	}
	others, err := n.batches.HasWebhook(ctx)
	return err == nil && !others, err
}

// dropIdle stops watching batches that nobody goes on with, and says which. Otherwise
// every scan would read them, for ever.
func (n *BatchNotifier) dropIdle(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, scanEvery)
	defer cancel()
	dropped, err := n.batches.DropIdle(limited, idleFor)
	for _, b := range dropped {
		n.log.Warn("the input of a batch was not read to its end, and nothing has happened to the batch for long: its completion is no longer waited for",
			zap.String("batch", b.ID), zap.Int64("total", b.Total), zap.Int64("queued", b.Queued), zap.Time("created_at", b.CreatedAt), zap.Duration("idle_for", idleFor),
			zap.String("hint", "to go on, enqueue the same input once more with --batch "+b.ID+"; to give it up: kooworker batch delete --force "+b.ID))
	}
	if err != nil && ctx.Err() == nil {
		n.log.Warn("cannot look for idle batches; trying again in an hour", zap.Error(err))
	}
}

// enqueueWebhook enqueues the webhook's task, unless another worker has done so.
func (n *BatchNotifier) enqueueWebhook(ctx context.Context, b tasks.BatchStats) error {
	if !n.webhook {
		return nil
	}
	now, t := time.Now(), tasks.BatchWebhook{BatchID: b.ID}
	payload, err := tasks.Encode(t, tasks.Intent{EnqueuedAt: now})
	if err != nil {
		return err
	}
	return asynqx.EnqueueAll(ctx, n.rdb, []asynqx.Order{{ID: tasks.Identity(t), Kind: t.Kind(), Queue: t.Queue(), Payload: payload, RunAt: now}})
}
