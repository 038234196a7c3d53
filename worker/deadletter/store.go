package deadletter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
)

// Store is the dead-letter queue of one Redis. It is safe for concurrent use.
type Store struct {
	rdb    redis.UniversalClient
	client *asynq.Client
}

// NewStore returns a Store over a client, which stays the caller's to close.
func NewStore(rdb redis.UniversalClient) *Store {
	return &Store{rdb: rdb, client: asynq.NewClientFromRedisClient(rdb)}
}

// ErrBusy is returned by Park while another copy of the letter is arriving, is
// being replayed, or was archived by hand. What becomes of that copy is open,
// so the dead task must stay where it is, and be parked later.
var ErrBusy = errors.New("a copy of this letter is arriving or being replayed")

// Park stores a letter. It returns nil once this letter, or one that demands
// at least as much for the same device or lock, is in the queue and will stay
// there until somebody replays or discards it.
func (s *Store) Park(ctx context.Context, l Letter) error {
	if strings.TrimSpace(string(l.Kind)) == "" {
		l.Kind = "unknown" // asynq takes no task without a type
	}
	const tries = 5 // each further one means that somebody else moved the copy in the meantime
	for range tries {
		again, err := s.park(ctx, &l)
		if err != nil {
			return err
		}
		if !again {
			return s.IndexReason(ctx, l.ID, l.Reason)
		}
	}
	return ErrBusy
}

// park is one try. It asks for another when the copy in the way vanished or
// changed, or when it is another task's.
func (s *Store) park(ctx context.Context, l *Letter) (again bool, err error) {
	err = s.enqueue(ctx, *l)
	if !errors.Is(err, asynq.ErrTaskIDConflict) {
		return false, err
	}
	// The conflict may be with an older letter, with another task that happens
	// to have the same ID, or with this very letter: Redis stored it, and the
	// reply got lost.
	there, err := s.look(ctx, l.ID)
	if err != nil || there.message == "" {
		return err == nil, err
	}
	other := there.letter()
	if !sameTarget(*l, other) {
		l.ID = l.ID + ":" + digest(*l)
		return true, nil
	}
	if !parked(there.score) {
		return false, ErrBusy
	}
	merged := merge(*l, other)
	if string(merged.Payload) == string(other.Payload) {
		return false, nil
	}
	// In its place and in one step: were the old one deleted first, its demands
	// would be lost if the new one could not be stored.
	replaced, err := s.replace(ctx, there, merged)
	return !replaced, err
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

// look reads what lies under an ID; the message is "" if there is nothing, the
// score if it is not in the retry set.
func (s *Store) look(ctx context.Context, id string) (entry, error) {
	var message, score *redis.StringCmd
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		message = p.HGet(ctx, taskPrefix+id, "msg")
		score = redis.NewStringCmd(ctx, "zscore", retryKey, id)
		return p.Process(ctx, score)
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return entry{}, fmt.Errorf("look at the dead letter in the way: %w", err)
	}
	return entry{id: id, message: message.Val(), score: score.Val()}, nil
}

// asSeenLua ends a script unless the letter is parked and is as it was seen. The
// scripts that it begins share their first two KEYS and first three ARGV.
const asSeenLua = `
local score = redis.call("ZSCORE", KEYS[2], ARGV[1])
if not score or tonumber(score) < tonumber(ARGV[2]) or redis.call("HGET", KEYS[1], "msg") ~= ARGV[3] then
	return 0
end
`

// replaceCmd gives a parked letter another message, provided that it is as it
// was seen.
//
// KEYS[1] -> asynq:{dead-letter}:t:<id>
// KEYS[2] -> asynq:{dead-letter}:retry
// --
// ARGV[1] -> ID
// ARGV[2] -> least score of a parked letter
// ARGV[3] -> the message that was seen
// ARGV[4] -> the new message
//
// Returns 1, or 0 if the letter has changed or is not parked any more.
var replaceCmd = redis.NewScript(asSeenLua + `
redis.call("HSET", KEYS[1], "msg", ARGV[4])
return 1
`)

func (s *Store) replace(ctx context.Context, old entry, l Letter) (bool, error) {
	sealed, err := l.seal()
	if err != nil {
		return false, err
	}
	message, err := asynqx.RewritePayload([]byte(old.message), sealed)
	if err != nil {
		return false, fmt.Errorf("rewrite dead letter %s: %w", old.id, err)
	}
	n, err := replaceCmd.Run(ctx, s.rdb, []string{taskPrefix + old.id, retryKey}, old.id, leastParked(), old.message, message).Int()
	if err != nil {
		return false, fmt.Errorf("replace dead letter %s: %w", old.id, err)
	}
	return n == 1, nil
}

// sameTarget reports whether two letters are about the same device or lock, so
// that one can stand for both. Of those that cannot be decoded only identical
// ones are. What has a place in a batch stands for itself: it owes a receipt.
func sameTarget(a, b Letter) bool {
	if a.Kind != b.Kind {
		return false
	}
	task, in, err := a.Task()
	other, otherIn, otherErr := b.Task()
	if err != nil || otherErr != nil {
		return string(a.Payload) == string(b.Payload)
	}
	return task == other && in.BatchRef == otherIn.BatchRef
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
	in := tasks.Intent{BatchRef: a.BatchRef, NoGuard: a.NoGuard || b.NoGuard, EnqueuedAt: later(a.EnqueuedAt, b.EnqueuedAt), NotAfter: later(a.NotAfter, b.NotAfter)}
	payload, err := tasks.Encode(task, in)
	if err != nil {
		return newer
	}
	newer.Payload, newer.EnqueuedAt = payload, in.EnqueuedAt
	return newer
}

// later returns the later of two limits. Zero is no limit, and goes furthest:
// never too late, and of unknown age, at which the guard does not look.
func later(a, b time.Time) time.Time {
	if a.IsZero() || b.IsZero() {
		return time.Time{}
	}
	if a.After(b) {
		return a
	}
	return b
}

func digest(l Letter) string {
	sum := sha256.Sum256(append([]byte(l.Kind+"\x00"), l.Payload...))
	return hex.EncodeToString(sum[:8])
}
