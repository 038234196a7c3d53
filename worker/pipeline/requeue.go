package pipeline

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/internal/asynqx"
)

// NewRequeuer returns a Requeuer over an asynq client.
func NewRequeuer(client *asynq.Client) Requeuer { return requeuer{client} }

type requeuer struct{ client *asynq.Client }

// Requeue implements Requeuer. The copy needs an ID of its own, since the original
// occupies its ID until asynq removes it. The ID is unique: a second copy after a
// crash does no harm, but a copy that is not enqueued because another task has its
// ID would be lost.
func (r requeuer) Requeue(ctx context.Context, d Delivery, delay time.Duration) error {
	headers := map[string]string{attemptsHeader: strconv.Itoa(d.Attempts)}
	copied := asynq.NewTaskWithHeaders(string(d.Kind), d.Payload, headers)
	id := d.ID + ":" + uuid.NewString()
	if _, err := r.client.EnqueueContext(ctx, copied, asynqx.TaskOptions(d.Queue, id, time.Now().Add(delay))...); err != nil {
		return fmt.Errorf("requeue %s: %w", d.ID, err)
	}
	return nil
}
