package deadletter

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// The index lists the letters of each reason, so that finding twelve among
// 700,000 does not read 700,000. It is one sorted set a reason, ID by time of
// death, beside asynq's keys and under the same hash tag.
//
// An entry is a hint: a letter that died of something else since, or is gone,
// may have left one behind, so the letter itself is always read. The other way
// round it is exact. Every letter has an entry under the reason that it shows:
// Park makes it after it has stored the letter and before it says so, and Note
// before a replay that failed is settled. A crash between storing and indexing
// leaves the original task where it was, which will be parked again.
func indexKey(reason tasks.Reason) string {
	return "kooworker:{" + tasks.QueueDeadLetter + "}:reason:" + string(reason)
}

// IndexReason makes an entry for a letter that is about to die, or has just died, of
// that reason.
func (s *Store) IndexReason(ctx context.Context, id string, reason tasks.Reason) error {
	if err := s.rdb.ZAdd(ctx, indexKey(reason), redis.Z{Score: float64(time.Now().UnixMilli()), Member: id}).Err(); err != nil {
		return fmt.Errorf("index dead letter %s: %w", id, err)
	}
	return nil
}

// reasonPageCmd reads a page of the index, latest first, and drops entries whose
// letter is gone. Pages follow each other as those of parkedPageCmd do.
//
// KEYS[1] -> kooworker:{dead-letter}:reason:<reason>
// KEYS[2] -> asynq:{dead-letter}:retry
// --
// ARGV[1] -> prefix of the tasks' keys
// ARGV[2] -> score of the last entry; on the first page the greatest to read
// ARGV[3] -> ID of the last entry, or "" for the first page
// ARGV[4] -> entries to read at most
//
// Returns ID, score in the index, score in the retry set ("" if it is not
// there) and message ("" if the letter is gone) of each, in one list.
var reasonPageCmd = redis.NewScript(afterLua + `
local first
if ARGV[3] == "" then
	first = redis.call("ZCOUNT", KEYS[1], "(" .. ARGV[2], "+inf")
else
	first = rankAfter(KEYS[1], ARGV[2], ARGV[3])
end
local found = redis.call("ZREVRANGE", KEYS[1], first, first + ARGV[4] - 1, "WITHSCORES")
local out = {}
for i = 1, #found, 2 do
	local message = redis.call("HGET", ARGV[1] .. found[i], "msg")
	if not message then
		redis.call("ZREM", KEYS[1], found[i])
	end
	out[#out + 1] = found[i]
	out[#out + 1] = found[i + 1]
	out[#out + 1] = redis.call("ZSCORE", KEYS[2], found[i]) or ""
	out[#out + 1] = message or ""
end
return out
`)

// pagesOf yields the letters that the index lists under a reason, latest first.
// What dies after the beginning is not among them.
func (s *Store) pagesOf(ctx context.Context, reason tasks.Reason, began time.Time) iter.Seq2[[]entry, error] {
	return func(yield func([]entry, error) bool) {
		score, id := fmt.Sprint(began.UnixMilli()), ""
		for {
			flat, err := reasonPageCmd.Run(ctx, s.rdb, []string{indexKey(reason), retryKey}, taskPrefix, score, id, pageSize).StringSlice()
			if err != nil {
				yield(nil, fmt.Errorf("read the dead letters of reason %s: %w", reason, err))
				return
			}
			var page []entry
			for i := 0; i+3 < len(flat); i += 4 {
				id, score = flat[i], flat[i+1]
				e := entry{id: id, score: flat[i+2], message: flat[i+3]}
				if !parked(e.score) {
					e.score = "" // it arrives, or is being replayed
				}
				if e.message != "" && (e.score != "" || e.arrives()) {
					page = append(page, e)
				}
			}
			if !yield(page, nil) || len(flat) < 4*pageSize {
				return
			}
		}
	}
}
