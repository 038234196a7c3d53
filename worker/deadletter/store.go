package deadletter

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/httpx"
	"github.com/kooworker/kooworker/tasks"
)

// Store is the dead-letter queue of one Redis. It is safe for concurrent use.
type Store struct {
	rdb     redis.UniversalClient
	client  *asynq.Client
	indexed atomic.Bool // EnsureIndex is done
}

// NewStore returns a Store over a client, which stays the caller's to close.
func NewStore(rdb redis.UniversalClient) *Store {
	return &Store{rdb: rdb, client: asynq.NewClientFromRedisClient(rdb)}
}

// ErrBusy is returned by Park while another copy of the letter is arriving, is
// being replayed, or was archived by hand. That copy may still succeed or vanish. So
// the dead task must stay where it is, and be parked later.
var ErrBusy = errors.New("a copy of this letter is arriving or being replayed")

// Park stores a letter. It returns nil once the letter is in the queue and stays
// there until somebody replays or discards it. A letter for the same device or
// lock that demands at least as much counts as this letter.
func (s *Store) Park(ctx context.Context, l Letter) error {
	// What asynq cannot store it refuses, and then the task would never leave its
	// queue. IDs that differ must still differ.
	l.Error, l.Kind = httpx.ErrorLine(l.Error), tasks.Kind(strings.ToValidUTF8(string(l.Kind), "?"))
	if !utf8.ValidString(l.ID) {
		l.ID = strconv.QuoteToASCII(l.ID)
	}
	if strings.TrimSpace(string(l.Kind)) == "" {
		l.Kind = KindUnknown // asynq takes no task without a type
	}
	const tries = 5 // each further one means that somebody else has just moved the copy
	for range tries {
		done, err := s.tryPark(ctx, &l)
		if done || err != nil {
			return err
		}
	}
	return ErrBusy
}

// tryPark is one try of Park. It is not done if the letter that has the ID vanished or
// changed, or if that letter is another task's.
func (s *Store) tryPark(ctx context.Context, l *Letter) (done bool, err error) {
	err = s.enqueue(ctx, *l)
	if err == nil {
		return true, s.IndexDeath(ctx, *l)
	}
	if !errors.Is(err, asynq.ErrTaskIDConflict) {
		return false, err
	}
	// The ID may be an older letter's, or that of another task which happens to have
	// the same ID, or this letter's own: Redis stored it, and the reply was lost.
	there, err := s.find(ctx, l.ID)
	if err != nil || there.message == "" {
		return false, err
	}
	other := there.read()
	if !sameTarget(*l, other) {
		l.ID = l.ID + ":" + digest(*l)
		return false, nil
	}
	if !isParked(there.score) {
		return false, ErrBusy
	}
	// The letter that is there has not died again. So it keeps its score, and a change of all
	// that match, which is under way, does not miss it. If Park was interrupted when it
	// stored the letter, its entries are missing.
	merged := merge(*l, other)
	if string(merged.Payload) == string(other.Payload) {
		return true, s.IndexMissing(ctx, other)
	}
	// The old letter is replaced in one step. If it were deleted first, its demands
	// would be lost should storing the new one fail.
	merged, done, err = s.replace(ctx, there, merged)
	if !done || err != nil {
		return false, err
	}
	return true, s.IndexMissing(ctx, merged)
}

func (s *Store) enqueue(ctx context.Context, l Letter) error {
	payload, err := l.encode()
	if err != nil {
		return err
	}
	_, err = s.client.EnqueueContext(ctx, asynq.NewTaskWithHeaders(string(l.Kind), payload, l.Headers), asynqx.TaskOptions(tasks.QueueDeadLetter, l.ID, time.Time{})...)
	if err != nil && !errors.Is(err, asynq.ErrTaskIDConflict) {
		return fmt.Errorf("enqueue the dead letter: %w", err)
	}
	return err
}

// find reads the letter of an ID. The message is "" if there is none.
func (s *Store) find(ctx context.Context, id string) (entry, error) {
	var message, score *redis.StringCmd
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		message = p.HGet(ctx, taskPrefix+id, asynqx.FieldMsg)
		score = redis.NewStringCmd(ctx, "zscore", retryKey, id)
		return p.Process(ctx, score)
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return entry{}, fmt.Errorf("read dead letter %s: %w", id, err)
	}
	return entry{id: id, message: message.Val(), score: score.Val()}, nil
}

// Withdraw deletes the letter of a task that is done after all: the repairer stored
// the letter because the task had crashed its workers, and was stopped before it could
// remove the task. There need not be such a letter. A letter of another order stays.
func (s *Store) Withdraw(ctx context.Context, id string, payload []byte) error {
	there, err := s.find(ctx, id)
	if err != nil || there.message == "" {
		return err
	}
	l := there.read()
	if l.Reason != tasks.Crashed || !bytes.Equal(l.Payload, payload) || !isParked(there.score) {
		return nil
	}
	_, err = s.change(ctx, discard, []match{{entry: there, letter: l}}, nil, step{})
	return err
}

// replaceCmd gives a parked letter another message, unless it has changed.
//
// KEYS[1] -> asynq:{dead-letter}:t:<id>
// KEYS[2] -> asynq:{dead-letter}:retry
// --
// ARGV[1] -> ID
// ARGV[2] -> least score of a parked letter
// ARGV[3] -> the message that was read
// ARGV[4] -> the new message
//
// Returns 1, or 0 if the letter has changed or is not parked any more.
var replaceCmd = redis.NewScript(`
local score = redis.call("ZSCORE", KEYS[2], ARGV[1])
if not score or tonumber(score) < tonumber(ARGV[2]) or redis.call("HGET", KEYS[1], "msg") ~= ARGV[3] then return 0 end
redis.call("HSET", KEYS[1], "msg", ARGV[4])
return 1
`)

// replace returns the letter as it shows from then on. It is not done if the old one has
// changed.
func (s *Store) replace(ctx context.Context, old entry, l Letter) (shown Letter, done bool, err error) {
	payload, err := l.encode()
	if err != nil {
		return l, false, err
	}
	message, err := asynqx.RewritePayload([]byte(old.message), payload)
	if err != nil {
		return l, false, fmt.Errorf("rewrite dead letter %s: %w", old.id, err)
	}
	n, err := replaceCmd.Run(ctx, s.rdb, []string{taskPrefix + old.id, retryKey}, old.id, minParkedScore(), old.message, message).Int()
	if err != nil {
		return l, false, fmt.Errorf("replace dead letter %s: %w", old.id, err)
	}
	return FromMessage(old.id, message), n == 1, nil
}

// sameTarget reports whether two letters are about the same device or lock, so
// that one of them is enough. Letters that cannot be decoded must be identical.
// Letters of a batch must be about the same item of it, since each item owes a
// receipt of its own.
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

// merge gives the newer letter the older one's demands where these go further. For
// example, an order of an account deletion, which has no guard, must not be dropped
// because of an older order that has one.
func merge(newer, older Letter) Letter {
	task, a, errA := newer.Task()
	_, b, errB := older.Task()
	if errA != nil || errB != nil {
		return newer
	}
	in := tasks.Intent{BatchRef: a.BatchRef, NoGuard: a.NoGuard || b.NoGuard, EnqueuedAt: laxer(a.EnqueuedAt, b.EnqueuedAt), NotAfter: laxer(a.NotAfter, b.NotAfter)}
	payload, err := tasks.Encode(task, in)
	if err != nil {
		return newer
	}
	newer.Payload, newer.EnqueuedAt = payload, in.EnqueuedAt
	return newer
}

// laxer returns the laxer of two limits, which is the later one. Zero is no limit
// and therefore the laxest: a NotAfter that never passes, or an EnqueuedAt that is
// unknown, at which the guard does not look.
func laxer(a, b time.Time) time.Time {
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
