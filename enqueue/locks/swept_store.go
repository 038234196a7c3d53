package locks

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// SweptStore remembers which locks of an external source (a file, a database) were
// swept. Such a source may list a lock long after its release. The store remembers
// a lock together with its expiry: with another expiry it counts as a new lock.
//
// The store lies beside the ledger, in {kooworker:locks}:listed:<source>, a sorted
// set of "<user> <lock> <expiry in ms>" by the time in ms at which a sweep last
// saw the lock listed. The key …:attended exists while a worker runs that can read
// the source.
type SweptStore struct {
	rdb redis.UniversalClient
	key string
}

// NewSweptStore returns the store of one source over a client. The caller closes
// the client.
func NewSweptStore(rdb redis.UniversalClient, source tasks.SourceKind) *SweptStore {
	return &SweptStore{rdb: rdb, key: "{kooworker:locks}:listed:" + string(source)}
}

// Now returns the time by Redis' clock.
func (s *SweptStore) Now(ctx context.Context) (time.Time, error) { return NewStore(s.rdb).Now(ctx) }

// sweptStoreCmd marks locks as swept, or looks up which of them are.
//
// KEYS[1] -> {kooworker:locks}:listed:<source>
// --
// ARGV[1] -> 1 to mark them, 0 to look them up
// ARGV[2…] -> the members
//
// Returns "swept" for each that was marked before, else "unknown". For each that is
// marked it also records now as the time at which it was last seen. It takes effect
// as a whole.
var sweptStoreCmd = redis.NewScript(nowLua + `
local answers = {}
for i = 2, #ARGV do
	local marked = redis.call("ZSCORE", KEYS[1], ARGV[i])
	if ARGV[1] == "1" or marked then
		redis.call("ZADD", KEYS[1], now, ARGV[i])
	end
	answers[i - 1] = marked and "swept" or "unknown"
end
return answers
`)

// AlreadySwept reports for each of these locks, which the source lists now,
// whether it was swept with this expiry.
func (s *SweptStore) AlreadySwept(ctx context.Context, listed []tasks.Lock) ([]bool, error) {
	answers, err := s.run(ctx, "look up what was swept", 0, listed)
	if err != nil {
		return nil, err
	}
	swept := make([]bool, len(answers))
	for i, answer := range answers {
		swept[i] = answer == Swept
	}
	return swept, nil
}

// MarkSwept records that the releases of these locks are enqueued. Call it after
// asynq has the releases: if it came before, a crash in between would lose them.
// It is safe to call it again.
func (s *SweptStore) MarkSwept(ctx context.Context, swept []tasks.Lock) error {
	_, err := s.run(ctx, "mark swept", 1, swept)
	return err
}

func (s *SweptStore) run(ctx context.Context, verb string, mark int, locks []tasks.Lock) ([]Status, error) {
	row := func(l tasks.Lock) ([]any, error) { return []any{sweptMember(l)}, nil }
	return runChunked(ctx, s.rdb, []string{s.key}, verb, sweptStoreCmd, locks, row, mark)
}

// Remove lets the next sweep take a lock again.
func (s *SweptStore) Remove(ctx context.Context, swept tasks.Lock) error {
	if err := s.rdb.ZRem(ctx, s.key, sweptMember(swept)).Err(); err != nil {
		return fmt.Errorf("locks: let a lock be swept again: %w", err)
	}
	return nil
}

// Drop removes the locks that no sweep has seen listed for longer than keep. It
// returns their number.
func (s *SweptStore) Drop(ctx context.Context, keep time.Duration) (dropped int64, err error) {
	return drop(ctx, s.rdb, keep, s.key)
}

func (s *SweptStore) heartbeatKey() string { return s.key + ":attended" }

// Heartbeat records that a worker runs that can read the source. The record lasts
// for ttl.
func (s *SweptStore) Heartbeat(ctx context.Context, ttl time.Duration) error {
	if err := s.rdb.Set(ctx, s.heartbeatKey(), "1", ttl).Err(); err != nil {
		return fmt.Errorf("locks: record that a worker reads a source: %w", err)
	}
	return nil
}

// HasWorker reports whether a worker runs that can read the source.
func (s *SweptStore) HasWorker(ctx context.Context) (bool, error) {
	n, err := s.rdb.Exists(ctx, s.heartbeatKey()).Result()
	if err != nil {
		return false, fmt.Errorf("locks: ask whether a worker reads a source: %w", err)
	}
	return n == 1, nil
}

// sweptMember is how the store writes a lock.
func sweptMember(l tasks.Lock) string {
	return member(l.ID()) + " " + strconv.FormatInt(millisAt(l.ExpiresAt), 10)
}
