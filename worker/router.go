package worker

import (
	"context"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// router is the handler of all pollers. Queues are told apart here, and kinds
// in the decoder, both exactly: asynq's ServeMux matches prefixes.
type router struct {
	flow    *pipeline.Pipeline
	letters *deadletter.Store
}

var _ asynq.Handler = (*router)(nil)

// ProcessTask implements asynq.Handler.
func (r *router) ProcessTask(ctx context.Context, t *asynq.Task) error {
	d := pipeline.NewDelivery(ctx, t)
	if d.Queue != tasks.QueueDeadLetter {
		return pipeline.ToAsynqError(d, r.flow.Process(ctx, d))
	}
	letter := deadletter.Decode(d.ID, t.Type(), t.Payload())
	d.Replay, d.Payload = true, letter.Payload
	verdict := pipeline.Decision{Action: pipeline.Park, Reason: letter.Reason, Error: letter.Error}
	if d.Retries > 0 { // else it has just arrived; see package deadletter
		d.Attempts = letter.Attempts + d.Retries - 1
		verdict = r.flow.Process(ctx, d)
	}
	if verdict.Action == pipeline.Park {
		// Letters that come by Park have their entry; those that somebody put
		// here by hand, and those that die of another reason now, have not.
		if err := r.letters.IndexReason(ctx, d.ID, verdict.Reason); err != nil {
			return pipeline.ToAsynqError(d, pipeline.Decision{Action: pipeline.Retry, Reason: verdict.Reason, Error: err.Error(), Delay: time.Second})
		}
	}
	return pipeline.ToAsynqError(d, verdict)
}

// queue is where the pipeline sends what cannot stay.
type queue struct {
	client  *asynq.Client
	letters *deadletter.Store
}

var _ pipeline.Queue = (*queue)(nil)

func newQueue(rdb redis.UniversalClient, letters *deadletter.Store) *queue {
	return &queue{client: asynq.NewClientFromRedisClient(rdb), letters: letters}
}

// Park implements pipeline.Queue.
func (q *queue) Park(ctx context.Context, l pipeline.Letter) error {
	letter := deadletter.Letter{
		ID: l.ID, Kind: l.Kind, Queue: l.Queue, Payload: l.Payload,
		Reason: l.Reason, Error: l.Error, Attempts: l.Attempts,
		EnqueuedAt: l.Intent.EnqueuedAt, DeadAt: time.Now(), Batch: l.Intent.BatchRef.Batch,
	}
	if l.Task != nil {
		letter.UserID, letter.Target = l.Task.User(), l.Task.Target()
	}
	return q.letters.Park(ctx, letter)
}

// Requeue implements pipeline.Queue. The task gets a new ID, since its own is
// taken until it is settled, and one that nobody else has: a second copy after a
// crash does no harm, an ID that turns out to be another task's would.
func (q *queue) Requeue(ctx context.Context, d pipeline.Delivery, delay time.Duration) error {
	headers := map[string]string{pipeline.AttemptsHeader: strconv.Itoa(d.Attempts)}
	_, err := q.client.EnqueueContext(ctx, asynq.NewTaskWithHeaders(string(d.Kind), d.Payload, headers),
		asynq.TaskID(d.ID+":"+uuid.NewString()), asynq.Queue(d.Queue), asynq.ProcessIn(delay),
		asynq.MaxRetry(tasks.MaxRetry), asynq.Timeout(tasks.Timeout))
	return err
}
