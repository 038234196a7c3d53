package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// unsignedPause is how long a webhook waits if its secret cannot be used.
const unsignedPause = time.Minute

// webhookPayload is what a webhook posts.
type webhookPayload struct {
	Type      string           `json:"type"`
	Timestamp time.Time        `json:"timestamp"`
	Data      tasks.BatchStats `json:"data"`
}

// postWebhook posts the news of a complete batch. Every failed request is charged:
// if the receiver cannot be reached for so long that the budget is used up, more
// tries would not help.
//
// If the batch was deleted or has expired, there is nothing to post any more. The task
// is superseded and not dead, since a replay would find nothing to post either.
func (j *Jobs) postWebhook(ctx context.Context, t tasks.BatchWebhook) pipeline.Result {
	if j.webhook == nil {
		return waitFor("this worker has no webhook, but the one that enqueued this task has",
			"give --webhook-url to all workers, or to none and discard this task", otherWorkerPause)
	}
	stats, err := j.batches.Show(ctx, t.BatchID)
	if _, gone := errors.AsType[*batch.NotFoundError](err); gone {
		j.log.Warn("a webhook is not posted, since its batch was deleted or has expired", zap.String("batch", t.BatchID))
		return pipeline.Superseded("its batch was deleted or has expired, so there is nothing to post")
	}
	if err != nil {
		return unavailable(err)
	}
	body, err := json.Marshal(webhookPayload{Type: "batch.complete", Timestamp: stats.CompletedAt, Data: stats})
	if err != nil {
		return pipeline.Failed(pipeline.Problem{Reason: tasks.Panicked, Detail: err.Error()})
	}
	answer := j.webhook.Send(ctx, "batch-complete-"+t.BatchID, body)
	switch answer.Reason {
	case tasks.OK:
		return pipeline.Done(nil)
	case tasks.Unauthorized: // our own secret cannot be used, so nothing was sent
		j.log.Error("cannot sign the webhook; it waits", zap.String("batch", t.BatchID), zap.String("error", answer.Message), zap.String("hint", answer.Hint))
		return waitFor(answer.Message, answer.Hint, unsignedPause)
	default:
		return pipeline.Failed(pipeline.Problem{Reason: answer.Reason, Detail: answer.Message, Hint: answer.Hint, RetryAfter: answer.RetryAfter})
	}
}
