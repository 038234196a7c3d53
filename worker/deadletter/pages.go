package deadletter

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/zset"
	"github.com/kooworker/kooworker/tasks"
)

// asynq's keys of the queue. They carry one hash tag, so that a Redis cluster
// keeps them together.
var (
	retryKey   = asynqx.RetryKey(tasks.QueueDeadLetter)
	pendingKey = asynqx.PendingKey(tasks.QueueDeadLetter)
	activeKey  = asynqx.ActiveKey(tasks.QueueDeadLetter)
	taskPrefix = asynqx.TaskKeyPrefix(tasks.QueueDeadLetter)
)

// pageSize is how many letters one script reads: about a millisecond of Redis' time.
const pageSize = 500

// parkedAhead is how far ahead a letter must lie to count as parked. A replay that
// waits for its next try lies minutes ahead, a parked letter ten years.
const parkedAhead = 365 * 24 * time.Hour

// minParkedScore is the score from which on a letter is parked.
func minParkedScore() int64 { return time.Now().Add(parkedAhead).Unix() }

// isParked reports whether a score is that of a parked letter.
func isParked(score string) bool {
	at, err := strconv.ParseFloat(score, 64)
	return err == nil && int64(at) >= minParkedScore()
}

// entry is a letter as it is in Redis.
type entry struct {
	id      string
	score   string // in the retry set; "" if it is not there
	message string // asynq's; "" if the letter is gone
	cursor  string // its score in the set that was read
}

// setPageCmd reads a page of a sorted set of IDs, the highest score first. A page
// begins after the last entry of the page before, whether or not that entry is
// still there. So others may move letters meanwhile, and none is skipped or read
// twice. It works when memory is full.
//
// KEYS[1] -> asynq:{dead-letter}:retry or kooworker:{dead-letter}:reason:<reason>
// KEYS[2] -> asynq:{dead-letter}:retry
// --
// ARGV[1] -> prefix of the tasks' keys
// ARGV[2] -> score of the last entry; on the first page one above all to read
// ARGV[3] -> ID of the last entry; on the first page ""
// ARGV[4] -> entries to read at most
// ARGV[5] -> 1 to remove the entries whose letter is gone
//
// Returns of each entry the ID, the score in the retry set ("" if it is not there),
// the message ("" if the letter is gone) and the score in KEYS[1], all in one list.
var setPageCmd = redis.NewScript(zset.RankLua + `
local first = redis.call("ZCARD", KEYS[1]) - rank(KEYS[1], ARGV[2], ARGV[3])
local found = redis.call("ZREVRANGE", KEYS[1], first, first + ARGV[4] - 1, "WITHSCORES")
local out = {}
for i = 1, #found, 2 do
	local id = found[i]
	local message = redis.call("HGET", ARGV[1] .. id, "msg")
	if not message and ARGV[5] == "1" then
		redis.call("ZREM", KEYS[1], id)
	end
	out[#out + 1] = id
	out[#out + 1] = redis.call("ZSCORE", KEYS[2], id) or ""
	out[#out + 1] = message or ""
	out[#out + 1] = found[i + 1]
end
return out
`)

// listPageCmd reads a page of a list of IDs. It begins at the head, where others
// add: what they take from the tail moves nothing.
//
// KEYS[1] -> asynq:{dead-letter}:pending or :active
// --
// ARGV[1] -> prefix of the tasks' keys
// ARGV[2] -> index of the first
// ARGV[3] -> index of the last
//
// Returns what setPageCmd returns. The scores are "".
var listPageCmd = redis.NewScript(`
local out = {}
for _, id in ipairs(redis.call("LRANGE", KEYS[1], ARGV[2], ARGV[3])) do
	out[#out + 1] = id
	out[#out + 1] = ""
	out[#out + 1] = redis.call("HGET", ARGV[1] .. id, "msg") or ""
	out[#out + 1] = ""
end
return out
`)

func (s *Store) page(ctx context.Context, script *redis.Script, keys []string, args ...any) ([]entry, error) {
	flat, err := script.Run(ctx, s.rdb, keys, append([]any{taskPrefix}, args...)...).StringSlice()
	if err != nil {
		return nil, fmt.Errorf("read the dead letters: %w", err)
	}
	page := make([]entry, 0, len(flat)/4)
	for i := 0; i+3 < len(flat); i += 4 {
		page = append(page, entry{id: flat[i], score: flat[i+1], message: flat[i+2], cursor: flat[i+3]})
	}
	return page, nil
}

// setPages yields the entries of a sorted set whose score is less than below, the
// highest score first.
func (s *Store) setPages(ctx context.Context, key, below string, removeGone int) iter.Seq2[[]entry, error] {
	return func(yield func([]entry, error) bool) {
		last := entry{cursor: below}
		for {
			page, err := s.page(ctx, setPageCmd, []string{key, retryKey}, last.cursor, last.id, pageSize, removeGone)
			n := len(page)
			if n > 0 {
				last = page[n-1]
			}
			if !yield(page, err) || n < pageSize {
				return
			}
		}
	}
}

// listPages yields the entries of a list.
func (s *Store) listPages(ctx context.Context, key string) iter.Seq2[[]entry, error] {
	return func(yield func([]entry, error) bool) {
		for start := 0; ; start += pageSize {
			page, err := s.page(ctx, listPageCmd, []string{key}, start, start+pageSize-1)
			if !yield(page, err) || len(page) < pageSize {
				return
			}
		}
	}
}

// pages yields what may match a filter, page by page: from the index if the
// filter names reasons that have one, otherwise every letter.
func (s *Store) pages(ctx context.Context, f Filter) iter.Seq2[[]entry, error] {
	if len(f.Reasons) == 0 || slices.ContainsFunc(f.Reasons, func(r tasks.Reason) bool { return !r.Known() }) {
		return s.allPages(ctx)
	}
	return func(yield func([]entry, error) bool) {
		var ends []string // a score above all that each index has now
		for _, reason := range f.Reasons {
			last, err := s.rdb.ZRevRangeWithScores(ctx, indexKey(reason), 0, 0).Result()
			if err != nil {
				yield(nil, fmt.Errorf("read the index of dead letters: %w", err))
				return
			}
			ends = append(ends, fmt.Sprintf("%.0f", append(last, redis.Z{})[0].Score+1))
		}
		for i, reason := range f.Reasons {
			for page, err := range s.reasonPages(ctx, reason, ends[i]) {
				if !yield(page, err) {
					return
				}
			}
		}
	}
}

// allPages yields every letter: first those that arrive, then the parked ones, latest
// first. It remembers the IDs of the first, since a letter may be parked in between.
//
// A letter that is parked again while the pages are read comes before all those
// that are still to be read. So a caller that replays what it reads replays no
// letter twice.
func (s *Store) allPages(ctx context.Context) iter.Seq2[[]entry, error] {
	return func(yield func([]entry, error) bool) {
		seen := make(map[string]bool)
		for _, key := range []string{pendingKey, activeKey} {
			for page, err := range s.listPages(ctx, key) {
				var arriving []entry
				for _, e := range page {
					if e.isDead() && !seen[e.id] {
						seen[e.id] = true
						arriving = append(arriving, e)
					}
				}
				if !yield(arriving, err) || err != nil {
					return
				}
			}
		}
		for page, err := range s.setPages(ctx, retryKey, "+inf", 0) {
			end := slices.IndexFunc(page, func(e entry) bool { return !isParked(e.score) })
			if end >= 0 { // the replays that wait for their next try come after it
				page = page[:end]
			}
			page = slices.DeleteFunc(page, func(e entry) bool { return !e.isDead() || seen[e.id] })
			if !yield(page, err) || end >= 0 {
				return
			}
		}
	}
}

// isDead reports whether an entry is a letter that is parked or arrives. One that
// is being replayed is not dead just now.
func (e entry) isDead() bool {
	if e.message == "" {
		return false
	}
	if isParked(e.score) {
		return true
	}
	m, err := asynqx.ParseMessage([]byte(e.message))
	return err == nil && m.Retried == 0
}

// letter decodes an entry: the envelope, and what has happened in the queue since.
// If asynq cannot read the message either, only its bytes are known of the letter.
func (e entry) letter() Letter {
	m, err := asynqx.ParseMessage([]byte(e.message))
	if err != nil {
		return Letter{
			ID: e.id, Queue: tasks.QueueDeadLetter, Payload: []byte(e.message), Reason: tasks.Undecodable,
			Error: string(tasks.Undecodable) + ": " + err.Error(),
		}
	}
	return Decode(e.id, m.Kind, m.Payload).withReplays(m)
}
