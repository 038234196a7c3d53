package locks

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// SweptStore remember which locks were swept of those that a file or a database
// lists: these go on being listed for as long as their owner likes, released or
// not. A lock is remembered with its expiry; with another expiry it is news.
//
// They lie beside the ledger, in {kooworker:locks}:listed:<source>: a sorted set
// of "<user> <lock> <expiry in ms>", by the time in ms at which a sweep last saw
// it listed; and …:attended, which says that a worker can look there.
type SweptStore struct {
	rdb redis.UniversalClient
	key string
}

// NewSweptStore returns the notes of a source, over a client which stays the
// caller's to close.
func NewSweptStore(rdb redis.UniversalClient, source tasks.Source) *SweptStore {
	return &SweptStore{rdb: rdb, key: "{kooworker:locks}:listed:" + string(source)}
}

// Now is what Redis' clock shows.
func (n *SweptStore) Now(ctx context.Context) (time.Time, error) { return nowOf(ctx, n.rdb) }

func nowOf(ctx context.Context, rdb redis.UniversalClient) (time.Time, error) {
	now, err := rdb.Time(ctx).Result()
	if err != nil {
		return time.Time{}, fmt.Errorf("locks: ask for the time: %w", err)
	}
	return now.UTC(), nil
}

// noteCmd notes locks, or looks for them.
//
// KEYS[1] -> {kooworker:locks}:listed:<source>
// --
// ARGV[1] -> 1 to note them, 0 to look
// ARGV[2…] -> the members
//
// Returns 1 for each that was noted before, else 0. What was is seen now.
var noteCmd = redis.NewScript(nowLua + `
local there = {}
for i = 2, #ARGV do
	there[i - 1] = redis.call("ZSCORE", KEYS[1], ARGV[i]) and 1 or 0
	if ARGV[1] == "1" or there[i - 1] == 1 then
		redis.call("ZADD", KEYS[1], now, ARGV[i])
	end
end
return there
`)

// Swept reports for each of these, which are listed now, whether it was swept
// with this expiry.
func (n *SweptStore) Swept(ctx context.Context, listed []tasks.Lock) ([]bool, error) {
	return n.note(ctx, "look for what was swept", 0, listed)
}

// Note notes that the releases of these are enqueued. It is called after asynq
// has them: were it called before, a crash in between would lose them. To do it
// again is safe.
func (n *SweptStore) Note(ctx context.Context, swept []tasks.Lock) error {
	_, err := n.note(ctx, "note what was swept", 1, swept)
	return err
}

func (n *SweptStore) note(ctx context.Context, verb string, add int, all []tasks.Lock) ([]bool, error) {
	there := make([]bool, 0, len(all))
	for len(all) > 0 {
		page := all[:min(chunk, len(all))]
		all = all[len(page):]
		args := []any{add}
		for _, l := range page {
			args = append(args, noteOf(l))
		}
		answers, err := noteCmd.Run(ctx, n.rdb, []string{n.key}, args...).Int64Slice()
		if err == nil && len(answers) != len(page) {
			err = fmt.Errorf("%d answers; want %d", len(answers), len(page))
		}
		if err != nil {
			return nil, fmt.Errorf("locks: %s: %w", verb, err)
		}
		for _, is := range answers {
			there = append(there, is == 1)
		}
	}
	return there, nil
}

// Remove lets the next sweep take a lock again.
func (n *SweptStore) Remove(ctx context.Context, swept tasks.Lock) error {
	if err := n.rdb.ZRem(ctx, n.key, noteOf(swept)).Err(); err != nil {
		return fmt.Errorf("locks: let a lock be swept again: %w", err)
	}
	return nil
}

// forgetNotesCmd drops a piece of what has not been seen for long.
//
// KEYS[1] -> {kooworker:locks}:listed:<source>
// --
// ARGV[1] -> ms for which it is kept
// ARGV[2] -> how many to drop at most
//
// Returns how many were dropped.
var forgetNotesCmd = redis.NewScript(nowLua + `
local members = redis.call("ZRANGEBYSCORE", KEYS[1], "-inf", now - ARGV[1], "LIMIT", 0, ARGV[2])
if #members > 0 then
	redis.call("ZREM", KEYS[1], unpack(members))
end
return #members
`)

// attendedKey is there while a worker runs that can look at the source.
func (n *SweptStore) attendedKey() string { return n.key + ":attended" }

// Attend says that a worker runs that can look at the source, for as long as d.
func (n *SweptStore) Attend(ctx context.Context, d time.Duration) error {
	if err := n.rdb.Set(ctx, n.attendedKey(), "1", d).Err(); err != nil {
		return fmt.Errorf("locks: attend a source: %w", err)
	}
	return nil
}

// Attended reports whether such a worker runs.
func (n *SweptStore) Attended(ctx context.Context) (bool, error) {
	there, err := n.rdb.Exists(ctx, n.attendedKey()).Result()
	if err != nil {
		return false, fmt.Errorf("locks: look who attends a source: %w", err)
	}
	return there == 1, nil
}

// Drop drops the notes of what no sweep has seen listed for as long as keep. It
// returns their number.
func (n *SweptStore) Drop(ctx context.Context, keep time.Duration) (dropped int64, err error) {
	for {
		some, err := forgetNotesCmd.Run(ctx, n.rdb, []string{n.key}, millisUp(keep), chunk).Int64()
		if err != nil {
			return dropped, fmt.Errorf("locks: drop old notes: %w", err)
		}
		if dropped += some; some < chunk {
			return dropped, nil
		}
	}
}

// noteOf is how a lock is written.
func noteOf(l tasks.Lock) string {
	return member(l.ID()) + " " + strconv.FormatInt(millisAt(l.ExpiresAt), 10)
}
