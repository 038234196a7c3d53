package recovery

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/tracing"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// Parker stores what must not run again. *deadletter.Store does.
type Parker interface {
	// Park returns nil once the letter is stored for good. It must be safe to call
	// twice for one task, since a crash after the first call leads to a second one.
	// On an error the task stays where it is, and another pass tries again.
	Park(ctx context.Context, l deadletter.Letter) error
}

// Receipts gives tasks their receipts.
type Receipts interface {
	// Record returns nil once the receipt is stored, or was stored before.
	Record(ctx context.Context, r tasks.Receipt) error
}

// letter returns the dead letter of a task.
func (it item) letter(q queue, reason tasks.Reason, text string) deadletter.Letter {
	l := deadletter.Letter{
		ID: it.id, Kind: tasks.Kind(it.msg.Kind), Queue: q.name, Payload: it.msg.Payload,
		Reason: reason, Error: text, Attempts: int(it.msg.Retried), DeadAt: time.Now(),
		Headers: tracing.Of(it.msg.Headers),
	}
	if task, intent, err := l.Task(); err == nil {
		l.UserID, l.Target, l.EnqueuedAt, l.Batch = task.User(), task.Target(), intent.EnqueuedAt, intent.BatchRef.Batch
	}
	return l
}

// undecodable returns the dead letter of bytes that are no task. Its ID is not
// theirs: in the queue of dead letters they may hold that ID themselves.
func (it item) undecodable(q queue) deadletter.Letter {
	return deadletter.Letter{
		ID: q.name + ":" + it.id, Kind: "unknown", Queue: q.name, Payload: []byte(*it.raw),
		Reason: tasks.Undecodable, Error: fmt.Sprintf("%s: %v", tasks.Undecodable, it.err), DeadAt: time.Now(),
	}
}

// park stores the receipt of a task, and then its letter. If the process
// dies in between, the task is still where it was, and is parked again, or runs
// again. In the other order a task whose receipt fails, and which runs again and
// succeeds, would leave a letter that nobody needs.
//
// If the ledger cannot take the receipt although Redis is there, the task is parked
// without it: asynq deletes archived tasks some day.
func (r *Repairer) park(ctx context.Context, l deadletter.Letter) error {
	ctx, cancel := context.WithTimeout(ctx, parkTimeout)
	defer cancel()
	if receipt, ok := l.Receipt(tasks.Dead); ok {
		err := r.cfg.Receipts.Record(ctx, receipt)
		if err != nil && asynqx.IsUnavailable(err) {
			return err
		}
		if err != nil {
			r.repairs.Error("a dead task is parked without its receipt, which cannot be written", zap.String("id", l.ID), zap.String("batch", l.Batch), zap.Error(err))
		}
	}
	return r.cfg.Parker.Park(ctx, l)
}

// reasonOf returns the reason that an error's text tells. Our own texts begin
// with the reason; asynq's are known. It is tasks.Archived if the text tells no
// reason, or if there is none since the task never ran.
func reasonOf(text string) tasks.Reason {
	first, _, _ := strings.Cut(text, ":")
	switch r := tasks.Reason(first); {
	case r.Known():
		return r
	case strings.HasPrefix(text, "panic"):
		return tasks.Panicked
	case strings.HasPrefix(text, "context deadline exceeded"), strings.HasPrefix(text, "asynq: task lease expired"):
		return tasks.TimedOut
	default:
		return tasks.Archived
	}
}
