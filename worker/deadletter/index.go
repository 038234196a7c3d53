package deadletter

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// The index lists the letters of each reason, so that finding 12 letters among
// 700,000 does not read 700,000. It is one sorted set per reason, of IDs by time
// of death, beside asynq's keys and under the same hash tag. The time is Redis'
// own, and each entry is above those that came before it.
//
// An entry goes with its letter: Discard removes it, and the worker calls Unindex
// when a replay has succeeded. If somebody deletes the letter by hand, its entry is
// removed when it is read. A letter that has died of another reason since still has
// the old entry. So the letter itself is always read.
//
// No entry is missing. Every letter has one under the reason that it shows: Park
// adds it after it has stored the letter and before it returns, and the worker calls
// IndexReason before it parks a replay that failed. If Park is interrupted between
// storing and indexing, the original task stays where it was and will be parked
// again. Only a letter whose work is done has none, if asynq could not remove it.
func indexKey(reason tasks.Reason) string {
	return "kooworker:{" + tasks.QueueDeadLetter + "}:reason:" + string(reason)
}

// indexCmd adds a letter to an index.
//
// KEYS[1] -> kooworker:{dead-letter}:reason:<reason>
// --
// ARGV[1] -> ID.
var indexCmd = redis.NewScript(`
local now = redis.call("TIME")
local last = redis.call("ZREVRANGE", KEYS[1], 0, 0, "WITHSCORES")[2] or 0
local score = math.max(now[1] * 1000 + math.floor(now[2] / 1000), last + 1)
return redis.call("ZADD", KEYS[1], string.format("%.0f", score), ARGV[1])
`)

// IndexReason adds a letter that is about to die, or has just died, to the index
// of a reason.
func (s *Store) IndexReason(ctx context.Context, id string, reason tasks.Reason) error {
	if err := indexCmd.Run(ctx, s.rdb, []string{indexKey(reason)}, id).Err(); err != nil {
		return fmt.Errorf("index dead letter %s: %w", id, err)
	}
	return nil
}

// Unindex removes a letter whose replay has succeeded from the index.
func (s *Store) Unindex(ctx context.Context, id string) error {
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, reason := range tasks.Reasons() {
			p.ZRem(ctx, indexKey(reason), id)
		}
		return nil
	})
	return err
}

// reasonPages yields the letters that the index lists under a reason, latest
// first. It leaves out the entries from the score end on.
func (s *Store) reasonPages(ctx context.Context, reason tasks.Reason, end string) iter.Seq2[[]entry, error] {
	return func(yield func([]entry, error) bool) {
		const removeGone = 1
		for page, err := range s.setPages(ctx, indexKey(reason), end, removeGone) {
			if !yield(slices.DeleteFunc(page, func(e entry) bool { return !e.isDead() }), err) {
				return
			}
		}
	}
}
