package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hibiken/asynq"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/pipeline"
	"github.com/kooworker/kooworker/worker/webhook"
)

// announcer spreads the news that a batch is complete: a line in the log, and a
// task of its own for the webhook, so that it is visible, retried and, in the
// end, a dead letter like any other.
type announcer struct {
	ledger Ledger
	client *asynq.Client
	log    *zap.Logger
	hook   *webhook.Sender // nil: nobody wants to know
	nudge  chan struct{}   // with room for one
}

func newAnnouncer(ledger Ledger, client *asynq.Client, hook *webhook.Sender, log *zap.Logger) *announcer {
	return &announcer{ledger: ledger, client: client, hook: hook, log: log, nudge: make(chan struct{}, 1)}
}

// unsignedPause is how long a webhook waits whose secret cannot be used.
const unsignedPause = time.Minute

// announceEvery is how often an announcer looks for batches that were completed
// by others, who may have died before they said so.
const announceEvery = 10 * time.Second

// completed is told that there is news.
func (a *announcer) completed() {
	select {
	case a.nudge <- struct{}{}:
	default:
	}
}

func (a *announcer) run(ctx context.Context) {
	tick := time.NewTicker(announceEvery)
	defer tick.Stop()
	for {
		limited, cancel := context.WithTimeout(ctx, announceEvery)
		told, err := a.ledger.DrainCompleted(limited, a.tell)
		cancel()
		for _, b := range told {
			a.log.Info("batch complete", zap.String("batch", b.ID), zap.Int64("total", b.Total), zap.Int64("succeeded", b.Succeeded),
				zap.Int64("already_gone", b.AlreadyGone), zap.Int64("superseded", b.Superseded), zap.Int64("dead", b.Dead),
				zap.Int64("discarded", b.Discarded), zap.Int64("duplicate", b.Duplicate), zap.Int64("rejected", b.Rejected))
		}
		if err != nil && ctx.Err() == nil {
			a.log.Warn("complete batches could not be announced; trying again", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-a.nudge:
		}
	}
}

// tell enqueues the webhook, if there is one.
func (a *announcer) tell(ctx context.Context, b tasks.BatchStats) error {
	if a.hook == nil {
		return nil
	}
	t := tasks.BatchWebhook{BatchID: b.ID}
	payload, err := tasks.Encode(t, tasks.Intent{EnqueuedAt: time.Now()})
	if err != nil {
		return err
	}
	_, err = a.client.EnqueueContext(ctx, asynq.NewTask(string(t.Kind()), payload), asynq.TaskID(tasks.Identity(t)),
		asynq.Queue(t.Queue()), asynq.MaxRetry(tasks.MaxRetry), asynq.Timeout(tasks.Timeout))
	if err != nil && !errors.Is(err, asynq.ErrTaskIDConflict) { // another worker was faster
		return fmt.Errorf("enqueue the webhook: %w", err)
	}
	return nil
}

// notice is what the webhook sends.
type notice struct {
	Type      string           `json:"type"`
	Timestamp time.Time        `json:"timestamp"`
	Data      tasks.BatchStats `json:"data"`
}

// send carries a webhook task out. Its failures are charged, whatever they are:
// who cannot be reached for an hour will not miss it for want of another try.
func (a *announcer) send(ctx context.Context, t tasks.BatchWebhook) pipeline.Answer {
	if a.hook == nil {
		return pipeline.Answer{
			Reason: tasks.Waiting, Message: "this worker has no webhook, another one has", Held: true, Uncalled: true, RetryAfter: announceEvery,
			Hint: "give --webhook-url to all workers, or to none and discard this task",
		}
	}
	b, err := a.ledger.Show(ctx, t.BatchID)
	if err != nil {
		return pipeline.Answer{Reason: tasks.Waiting, Message: err.Error(), Held: true, Uncalled: true, RetryAfter: announceEvery}
	}
	body, err := json.Marshal(notice{Type: "batch.complete", Timestamp: b.CompletedAt, Data: b})
	if err != nil {
		return pipeline.Answer{Reason: tasks.Panicked, Message: err.Error()}
	}
	ans := a.hook.Send(ctx, "batch-complete-"+t.BatchID, body)
	if ans.Reason == tasks.Unauthorized { // our own secret cannot be used: nothing was sent, and nothing will be
		a.log.Error("the webhook cannot be signed; it waits", zap.String("batch", t.BatchID), zap.String("error", ans.Message), zap.String("hint", ans.Hint))
		return pipeline.Answer{Reason: tasks.Waiting, Message: ans.Message, Hint: ans.Hint, Held: true, Uncalled: true, RetryAfter: unsignedPause}
	}
	return pipeline.Answer{Reason: ans.Reason, Message: ans.Message, Hint: ans.Hint, RetryAfter: ans.RetryAfter}
}
