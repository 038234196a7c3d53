package worker

import (
	"context"
	"fmt"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/pipeline"
	"github.com/kooworker/kooworker/worker/recovery"
)

// parker keeps as dead letters what the repairer must not let run again, and
// gives those of a batch their receipt.
type parker struct {
	letters *deadletter.Store
	ledger  pipeline.Ledger
}

var _ recovery.Parker = parker{}

// ParkCrashed implements recovery.Parker.
func (p parker) ParkCrashed(ctx context.Context, t recovery.Task) error {
	return p.park(ctx, t, tasks.Crashed, fmt.Sprintf("%s: it killed its worker %d times", tasks.Crashed, t.Crashes))
}

// ParkArchived implements recovery.Parker.
func (p parker) ParkArchived(ctx context.Context, t recovery.Task) error {
	if t.Reason == "" {
		return p.park(ctx, t, tasks.Archived, string(tasks.Archived)+": "+t.LastError)
	}
	return p.park(ctx, t, t.Reason, t.LastError)
}

// ParkUndecodable implements recovery.Parker.
func (p parker) ParkUndecodable(ctx context.Context, r recovery.Undecodable) error {
	return p.letters.Park(ctx, deadletter.Letter{
		// Its own ID may be taken in the dead-letter queue itself, by these very
		// bytes.
		ID: r.Queue + ":" + r.ID, Kind: "unknown", Queue: r.Queue, Payload: r.Message, DeadAt: time.Now(),
		Reason: tasks.Undecodable, Error: fmt.Sprintf("%s: %v", tasks.Undecodable, r.Err),
	})
}

func (p parker) park(ctx context.Context, t recovery.Task, reason tasks.Reason, text string) error {
	l := deadletter.Letter{
		ID: t.ID, Kind: t.Kind, Queue: t.Queue, Payload: t.Payload, Reason: reason, Error: text,
		Attempts: t.Retries, DeadAt: time.Now(),
	}
	task, intent, err := tasks.Decode(t.Kind, t.Payload)
	if err != nil {
		return p.letters.Park(ctx, l)
	}
	l.UserID, l.Target, l.EnqueuedAt, l.Batch = task.User(), task.Target(), intent.EnqueuedAt, intent.BatchRef.Batch
	if err := p.letters.Park(ctx, l); err != nil || !intent.BatchRef.IsSet() {
		return err
	}
	// A crash before this leaves the task where it was: it will be parked again.
	return p.ledger.Settle(ctx, tasks.Receipt{
		BatchRef: intent.BatchRef, Kind: t.Kind, UserID: task.User(), Target: task.Target(),
		Outcome: tasks.Dead, Reason: reason, Attempts: t.Retries,
	})
}
