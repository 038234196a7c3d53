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

// Requeue implements Requeuer. The copy gets a new ID, since its own is taken
// until the original is settled, and one that nobody else has: a second copy
// after a crash does no harm, but an ID that is another task's would.
func (r requeuer) Requeue(ctx context.Context, d Delivery, delay time.Duration) error {
	headers := map[string]string{attemptsHeader: strconv.Itoa(d.Attempts)}
	copied := asynq.NewTaskWithHeaders(string(d.Kind), d.Payload, headers)
	id := d.ID + ":" + uuid.NewString()
	if _, err := r.client.EnqueueContext(ctx, copied, asynqx.TaskOptions(d.Queue, id, time.Now().Add(delay))...); err != nil {
		return fmt.Errorf("requeue %s: %w", d.ID, err)
	}
	return nil
}
