package recovery

import (
	"context"
	"fmt"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// ReceiptRecorder gives the tasks of batches their receipts.
type ReceiptRecorder interface {
	// Record returns nil once the receipt is stored, or was stored before.
	Record(ctx context.Context, r tasks.Receipt) error
}

// DeadLetterSink is the Parker that stores dead letters, and gives those of a
// batch their receipt.
type DeadLetterSink struct {
	letters  *deadletter.Store
	receipts ReceiptRecorder
}

var _ Parker = (*DeadLetterSink)(nil)

// NewDeadLetterSink returns a DeadLetterSink.
func NewDeadLetterSink(letters *deadletter.Store, receipts ReceiptRecorder) *DeadLetterSink {
	return &DeadLetterSink{letters: letters, receipts: receipts}
}

// ParkCrashed implements Parker.
func (s *DeadLetterSink) ParkCrashed(ctx context.Context, t Task) error {
	return s.park(ctx, t, tasks.Crashed, fmt.Sprintf("%s: it killed its worker %d times", tasks.Crashed, t.Crashes))
}

// ParkArchived implements Parker.
func (s *DeadLetterSink) ParkArchived(ctx context.Context, t Task) error {
	if t.Reason == "" {
		return s.park(ctx, t, tasks.Archived, string(tasks.Archived)+": "+t.LastError)
	}
	return s.park(ctx, t, t.Reason, t.LastError)
}

// ParkUndecodable implements Parker.
func (s *DeadLetterSink) ParkUndecodable(ctx context.Context, u Undecodable) error {
	return s.letters.Park(ctx, deadletter.Letter{
		// Its own ID may be taken in the dead-letter queue itself, by these very
		// bytes.
		ID: u.Queue + ":" + u.ID, Kind: "unknown", Queue: u.Queue, Payload: u.Message, DeadAt: time.Now(),
		Reason: tasks.Undecodable, Error: fmt.Sprintf("%s: %v", tasks.Undecodable, u.Err),
	})
}

func (s *DeadLetterSink) park(ctx context.Context, t Task, reason tasks.Reason, text string) error {
	l := deadletter.Letter{
		ID: t.ID, Kind: t.Kind, Queue: t.Queue, Payload: t.Payload, Reason: reason, Error: text,
		Attempts: t.Retries, DeadAt: time.Now(),
	}
	task, intent, err := tasks.Decode(t.Kind, t.Payload)
	if err != nil {
		return s.letters.Park(ctx, l)
	}
	l.UserID, l.Target, l.EnqueuedAt, l.Batch = task.User(), task.Target(), intent.EnqueuedAt, intent.BatchRef.Batch
	if err := s.letters.Park(ctx, l); err != nil || !intent.BatchRef.IsSet() {
		return err
	}
	// If the process dies before this line, the task is still where it was, and is
	// parked again.
	return s.receipts.Record(ctx, tasks.Receipt{
		BatchRef: intent.BatchRef, Kind: t.Kind, UserID: task.User(), Target: task.Target(),
		Outcome: tasks.Dead, Reason: reason, Attempts: t.Retries,
	})
}
