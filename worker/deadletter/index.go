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
// when a replay has succeeded. If somebody deletes the letter by hand, or the worker
// dies in between, the entry is removed when it is read, or by PruneIndex. A letter
// that has died of another reason since still has the old entry, until it is gone. So
// the letter itself is always read.
//
// No entry is missing. Every letter has one under the reason that it shows: Park
// adds it after it has stored the letter and before it returns, and the worker calls
// IndexReason before it parks a replay that failed. If Park is interrupted between
// storing and indexing, the original task stays where it was and will be parked
// again. Only a letter whose work is done has none, if asynq could not remove it.
//
// There are indexes of known reasons only. Letters of other reasons, which another
// version or a stranger has written, are found by reading everything.
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
	if !reason.Known() {
		return nil
	}
	if err := indexCmd.Run(ctx, s.rdb, []string{indexKey(reason)}, id).Err(); err != nil {
		return fmt.Errorf("index dead letter %s: %w", id, err)
	}
	return nil
}

// Unindex removes a letter whose replay has succeeded from the index.
func (s *Store) Unindex(ctx context.Context, id string) error {
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, key := range indexKeys() {
			p.ZRem(ctx, key, id)
		}
		return nil
	})
	return err
}

// indexKeys are the keys of all indexes.
func indexKeys() []string {
	var keys []string
	for _, reason := range tasks.Reasons() {
		keys = append(keys, indexKey(reason))
	}
	return keys
}

// pruneCmd removes entries whose letter is gone.
//
// KEYS -> the indexes of all reasons
// --
// ARGV[1] -> prefix of the tasks' keys
// ARGV[2] -> the index to continue with, from 1
// ARGV[3] -> where to continue in it
// ARGV[4] -> about how many entries to look at
//
// Returns where the next call continues, as ARGV[2] and ARGV[3], and how many entries
// were removed.
var pruneCmd = redis.NewScript(`
local n, cursor, seen, removed = tonumber(ARGV[2]), ARGV[3], 0, 0
while n <= #KEYS and seen < tonumber(ARGV[4]) do
	local page = redis.call("ZSCAN", KEYS[n], cursor, "COUNT", ARGV[4])
	cursor = page[1]
	for i = 1, #page[2], 2 do
		seen = seen + 1
		if redis.call("EXISTS", ARGV[1] .. page[2][i]) == 0 then
			removed = removed + redis.call("ZREM", KEYS[n], page[2][i])
		end
	end
	if cursor == "0" then
		n = n + 1
	end
end
return {n, tonumber(cursor), removed}
`)

// IndexPosition is where PruneIndex continues. The zero value is the beginning.
type IndexPosition struct{ index, cursor int64 }

// PruneIndex removes from a page of the index the entries whose letter is gone, and
// moves the position to the next page. After the last page it begins again. A letter
// that is being parked has its entry only after it is stored, so its entry stays.
func (s *Store) PruneIndex(ctx context.Context, at *IndexPosition) (removed int64, err error) {
	keys := indexKeys()
	got, err := pruneCmd.Run(ctx, s.rdb, keys, taskPrefix, at.index+1, at.cursor, pageSize).Int64Slice()
	if err == nil && len(got) != 3 {
		err = fmt.Errorf("%d values; want 3", len(got))
	}
	if err != nil {
		return 0, fmt.Errorf("prune the index of dead letters: %w", err)
	}
	at.index, at.cursor = (got[0]-1)%int64(len(keys)), got[1]
	return got[2], nil
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
