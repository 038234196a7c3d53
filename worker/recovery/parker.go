package recovery

import (
	"context"
	"strings"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// Parker keeps what must not run again. Each method returns nil once the task
// is stored where it stays, and it must be safe to call twice for one task: a
// crash after the first call leads to a second. On an error the task stays
// where it is, and another pass tries again.
type Parker interface {
	// ParkCrashed keeps a task that killed its worker too often.
	ParkCrashed(ctx context.Context, t Task) error
	// ParkArchived keeps a task that asynq or an operator archived.
	ParkArchived(ctx context.Context, t Task) error
	// ParkUndecodable keeps bytes that are no task.
	ParkUndecodable(ctx context.Context, r Undecodable) error
}

// Task is what asynq knows of a task.
type Task struct {
	Queue   string
	ID      string
	Kind    tasks.Kind
	Payload []byte
	// Headers are asynq's headers; nil where there are none.
	Headers map[string]string
	// Retries counts the retries that asynq has charged.
	Retries int
	// Crashes counts the workers that died while they worked on it, the last
	// one included.
	Crashes int
	// Reason says why it is parked. For an archived task that is what LastError
	// begins with, or what asynq's own words amount to, and tasks.Archived where
	// the error says nothing or the task never ran.
	Reason tasks.Reason
	// LastError is the error of its last retry, and LastFailedAt that time;
	// empty and zero where it had none.
	LastError    string
	LastFailedAt time.Time
}

// Undecodable is a message that asynq cannot decode, or that belongs elsewhere.
type Undecodable struct {
	// Queue and ID tell where it was found. The ID is still taken in that
	// queue: a letter kept in the same queue needs another.
	Queue string
	ID    string
	// Message is asynq's message, byte for byte.
	Message []byte
	// Err says what is wrong with it.
	Err error
}

// reasonOf reads the reason off an error's text. Texts of ours begin with it;
// those of asynq are known.
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
