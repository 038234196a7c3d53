package pipeline

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/httpx"
	"github.com/kooworker/kooworker/tasks"
)

// attemptsHeader is the asynq header with the number of attempts that were charged
// to a task before it was requeued under another ID.
const attemptsHeader = "kooworker-attempts"

// NewDelivery reads a delivery from asynq.
func NewDelivery(ctx context.Context, t *asynq.Task) Delivery {
	d := Delivery{Kind: tasks.Kind(t.Type()), Payload: t.Payload(), Headers: t.Headers()}
	d.ID, _ = asynq.GetTaskID(ctx)
	d.Queue, _ = asynq.GetQueueName(ctx)
	d.Retries, _ = asynq.GetRetryCount(ctx)
	d.RetryLimit, _ = asynq.GetMaxRetry(ctx)
	d.Attempts = d.Retries
	d.Suspect = t.Headers()[asynqx.SuspectHeader] != ""
	if before, err := strconv.Atoi(t.Headers()[attemptsHeader]); err == nil && before > 0 && before <= maxAttempts {
		d.Attempts += before
	}
	return d
}

// ToAsynqError translates a decision to what asynq's handler must return.
//
//	Complete, Park, or requeued   nil: asynq removes the original
//	Retry                         an error with the delay; IsFailure tells whether it counts
//	Park of a replayed letter     an error with the delay asynqx.ParkDelay: asynq puts
//	                              the letter back in one atomic step
func ToAsynqError(d Delivery, decision Decision) error {
	switch {
	case decision.Action == Park && d.Replay:
		// A letter that was parked here has a retry count above 0; one that has just
		// arrived has 0. The count must never reach the limit at which asynq archives.
		return &retryError{text: decision.Error, delay: asynqx.ParkDelay, charged: d.Retries == 0 || d.Retries+1 < d.RetryLimit}
	case decision.Action == Retry && !decision.Requeued:
		return &retryError{text: decision.Error, delay: decision.Delay, charged: decision.CountsAsAttempt}
	default:
		return nil
	}
}

// retryError makes asynq put a task into its retry set. asynqmon shows its text,
// which may come from a stranger.
type retryError struct {
	text    string
	delay   time.Duration
	charged bool
}

func (e *retryError) Error() string { return httpx.ErrorLine(e.text) }

// RetryDelay is asynq's RetryDelayFunc. asynq rounds the time of a retry down to
// whole seconds, which would make a task run up to a second early. So RetryDelay
// rounds the time up.
//
// It must not panic: asynq does not recover here.
func RetryDelay(retries int, err error, _ *asynq.Task) time.Duration {
	var delay time.Duration
	switch e, ours := errors.AsType[*retryError](err); {
	case ours:
		delay = e.delay
	case errors.Is(err, context.DeadlineExceeded):
		delay = DefaultBackoff().Delay(retries + 1)
	default: // an expired lease, an operator's cancel
		delay = 2 * time.Second
	}
	return time.Until(asynqx.WholeSecond(time.Now().Add(delay)))
}

// IsFailure is asynq's IsFailure: it reports whether an error counts as a retry.
// Crashes and lost leases do not count.
//
// Of asynq's own errors only one counts: a producer set asynq's option Deadline,
// and the deadline has passed. Such a task never reaches the handler again. If the
// error did not count, asynq would retry the task for ever. Since it counts, asynq
// archives the task in the end, and recovery makes it a dead letter.
//
// It must not panic: asynq does not recover here.
func IsFailure(err error) bool {
	e, ours := errors.AsType[*retryError](err)
	return ours && e.charged || !ours && errors.Is(err, context.DeadlineExceeded)
}
