package recovery

import (
	"context"
	"strings"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// Parker stores what must not run again. Each method returns nil once the task is
// stored for good. It must be safe to call twice for one task, since a crash after
// the first call leads to a second one. On an error the task stays where it is,
// and another pass tries again.
type Parker interface {
	// ParkCrashed stores a task that killed its worker too often.
	ParkCrashed(ctx context.Context, t Task) error
	// ParkArchived stores a task that asynq or an operator archived.
	ParkArchived(ctx context.Context, t Task) error
	// ParkUndecodable stores bytes that are no task.
	ParkUndecodable(ctx context.Context, r Undecodable) error
}

// Task is what asynq knows of a task.
type Task struct {
	Queue   string
	ID      string
	Kind    tasks.Kind
	Payload []byte
	// Headers are asynq's headers; nil if there are none.
	Headers map[string]string
	// Retries counts the retries that asynq has charged.
	Retries int
	// Crashes counts the workers that died while they worked on it, including the
	// last one.
	Crashes int
	// Reason says why it is parked. For an archived task it is what LastError
	// begins with, or what a known error of asynq means. It is tasks.Archived if
	// the error tells no reason, or if the task never ran.
	Reason tasks.Reason
	// LastError is the error of its last retry, and LastFailedAt the time of that
	// retry. They are empty and zero if it had none.
	LastError    string
	LastFailedAt time.Time
}

// Undecodable is a message that asynq cannot decode, or that is another task's.
type Undecodable struct {
	// Queue and ID tell where it was found. The ID is still taken in that queue, so
	// a letter that is stored in the same queue needs another.
	Queue string
	ID    string
	// Message is asynq's message, byte for byte.
	Message []byte
	// Err says what is wrong with it.
	Err error
}

// reasonOf returns the reason that an error's text tells. Our own texts begin
// with the reason; asynq's are known.
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
