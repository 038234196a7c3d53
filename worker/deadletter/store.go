package deadletter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// Store is the dead-letter queue of one Redis. It is safe for concurrent use.
type Store struct {
	client    *asynq.Client
	inspector *asynq.Inspector
}

// NewStore returns a Store over a client, which stays the caller's to close.
func NewStore(rdb redis.UniversalClient) *Store {
	return &Store{client: asynq.NewClientFromRedisClient(rdb), inspector: asynq.NewInspectorFromRedisClient(rdb)}
}

// ErrBusy is returned by Park while another copy of the letter is arriving or
// is being replayed. What becomes of that copy is open, so the dead task must
// stay where it is, and be parked later.
var ErrBusy = errors.New("a copy of this letter is arriving or being replayed")

// parkedFrom is how far ahead a letter must lie to count as parked. Replays
// that wait for their turn lie minutes ahead, parked letters ten years.
const parkedFrom = 365 * 24 * time.Hour

func parked(info *asynq.TaskInfo) bool {
	return info.State == asynq.TaskStateRetry && time.Until(info.NextProcessAt) > parkedFrom
}

// Park stores a letter. It returns nil once this letter, or one that demands
// at least as much for the same device or lock, is in the queue and will stay
// there until somebody replays or discards it.
func (s *Store) Park(ctx context.Context, l Letter) error {
	const tries = 5 // each further one means that somebody else moved the copy in the meantime
	for range tries {
		again, err := s.park(ctx, &l)
		if err != nil || !again {
			return err
		}
	}
	return ErrBusy
}

// park is one try. It asks for another after it made room, or when the copy in
// the way vanished.
func (s *Store) park(ctx context.Context, l *Letter) (again bool, err error) {
	err = s.enqueue(ctx, *l)
	if !errors.Is(err, asynq.ErrTaskIDConflict) {
		return false, err
	}
	// The conflict may be with an older letter, with another task that happens
	// to have the same ID, or with this very letter: Redis stored it, and the
	// reply got lost.
	info, err := s.inspector.GetTaskInfo(tasks.QueueDeadLetter, l.ID)
	if errors.Is(err, asynq.ErrTaskNotFound) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at the dead letter in the way: %w", err)
	}
	other := Open(info.ID, info.Type, info.Payload)
	if !sameTarget(*l, other) {
		l.ID = l.ID + ":" + digest(*l)
		return true, nil
	}
	switch {
	case parked(info):
		merged := merge(*l, other)
		if string(merged.Payload) == string(other.Payload) {
			return false, nil
		}
		*l = merged
	case info.State == asynq.TaskStateArchived, info.State == asynq.TaskStateCompleted:
		// Somebody archived it by hand; asynq would delete it in time.
	default:
		return false, ErrBusy
	}
	// The dead task is still active in its own queue, so there is never a
	// moment without a copy.
	if err := s.inspector.DeleteTask(tasks.QueueDeadLetter, l.ID); err != nil && !errors.Is(err, asynq.ErrTaskNotFound) {
		return false, fmt.Errorf("%w (%w)", ErrBusy, err)
	}
	return true, nil
}

func (s *Store) enqueue(ctx context.Context, l Letter) error {
	sealed, err := l.seal()
	if err != nil {
		return err
	}
	_, err = s.client.EnqueueContext(ctx, asynq.NewTask(string(l.Kind), sealed),
		asynq.TaskID(l.ID), asynq.Queue(tasks.QueueDeadLetter), asynq.MaxRetry(tasks.MaxRetry), asynq.Timeout(tasks.Timeout))
	if err != nil && !errors.Is(err, asynq.ErrTaskIDConflict) {
		return fmt.Errorf("enqueue the dead letter: %w", err)
	}
	return err
}

// sameTarget reports whether two letters are about the same device or lock. Of
// those that cannot be decoded only identical ones are.
func sameTarget(a, b Letter) bool {
	if a.Kind != b.Kind {
		return false
	}
	if a.Target == "" || b.Target == "" {
		return string(a.Payload) == string(b.Payload)
	}
	return a.UserID == b.UserID && a.Target == b.Target
}

// merge gives the newer letter the older one's demands where these go further:
// what an account deletion ordered without the guard must not be dropped in
// favour of an older order that has it.
func merge(newer, older Letter) Letter {
	task, a, errA := newer.Task()
	_, b, errB := older.Task()
	if errA != nil || errB != nil {
		return newer
	}
	in := tasks.Intent{NoGuard: a.NoGuard || b.NoGuard, EnqueuedAt: later(a.EnqueuedAt, b.EnqueuedAt), NotAfter: later(a.NotAfter, b.NotAfter)}
	if a.NotAfter.IsZero() || b.NotAfter.IsZero() {
		in.NotAfter = time.Time{} // zero is never too late
	}
	payload, err := tasks.Encode(task, in)
	if err != nil {
		return newer
	}
	newer.Payload, newer.EnqueuedAt = payload, in.EnqueuedAt
	return newer
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func digest(l Letter) string {
	sum := sha256.Sum256(append([]byte(l.Kind+"\x00"), l.Payload...))
	return hex.EncodeToString(sum[:8])
}
