package pipeline

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/internal/asynqx"
)

// NewRequeue returns a function for Config.Requeue, over an asynq client. The copy of
// a task needs an ID of its own, since the original occupies its ID until asynq
// removes it. The ID is unique: a second copy after a crash does no harm, but a copy
// that is not enqueued because another task has its ID would be lost.
func NewRequeue(client *asynq.Client) func(context.Context, Delivery, time.Duration) error {
	return func(ctx context.Context, d Delivery, delay time.Duration) error {
		headers := map[string]string{attemptsHeader: strconv.Itoa(d.Attempts)}
		maps.Copy(headers, traceOfCopy(ctx, d, delay))
		if d.Suspect {
			headers[asynqx.SuspectHeader] = "1" // what is known of it stays behind, and it runs alone again
		}
		copied := asynq.NewTaskWithHeaders(string(d.Kind), d.Payload, headers)
		id := d.ID + ":" + uuid.NewString()
		if _, err := client.EnqueueContext(ctx, copied, asynqx.TaskOptions(d.Queue, id, time.Now().Add(delay))...); err != nil {
			return fmt.Errorf("requeue %s: %w", d.ID, err)
		}
		return nil
	}
}
