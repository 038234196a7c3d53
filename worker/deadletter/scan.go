package deadletter

import (
	"context"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
)

// asynq's keys of the queue. They carry one hash tag, so that a Redis cluster
// keeps them together.
const (
	keyPrefix  = "asynq:{" + tasks.QueueDeadLetter + "}:"
	retryKey   = keyPrefix + "retry"
	pendingKey = keyPrefix + "pending"
	activeKey  = keyPrefix + "active"
	taskPrefix = keyPrefix + "t:"
)

// pageSize is how many letters one script reads: about a millisecond of Redis'
// time.
const pageSize = 500

// parkedFrom is how far ahead a letter must lie to count as parked. Replays
// that wait for their turn lie minutes ahead, parked letters ten years.
const parkedFrom = 365 * 24 * time.Hour

// leastParked is the score from which on a letter is parked.
func leastParked() int64 { return time.Now().Add(parkedFrom).Unix() }

// entry is a letter as it lies in Redis.
type entry struct {
	id      string
	score   string // in the retry set; "" for one that arrives
	message string
}

// afterLua finds the place behind an entry in a sorted set that is read from its
// end, whether or not the entry is still there.
const afterLua = `
-- Whether a comes after b, as a sorted set orders its members: by bytes. Lua's
-- own comparison heeds the server's locale.
local function after(a, b)
	for i = 1, math.min(#a, #b) do
		local x, y = a:byte(i), b:byte(i)
		if x ~= y then
			return x > y
		end
	end
	return #a > #b
end

-- The rank from the end of what follows (score, id).
local function rankAfter(key, score, id)
	-- The entries of the same score lie between these ranks, in falling order.
	local low = redis.call("ZCOUNT", key, "(" .. score, "+inf")
	local high = redis.call("ZCOUNT", key, score, "+inf")
	while low < high do
		local middle = math.floor((low + high) / 2)
		if after(id, redis.call("ZREVRANGE", key, middle, middle)[1]) then
			high = middle
		else
			low = middle + 1
		end
	end
	return low
end
`

// parkedPageCmd reads a page of the parked letters, latest first. A page begins
// after the last entry of the page before, by score and ID, whether or not that
// entry is still there: so nothing that others move in the meantime is passed
// over or seen twice. It writes nothing, and works when memory is full.
//
// KEYS[1] -> asynq:{dead-letter}:retry
// --
// ARGV[1] -> prefix of the tasks' keys
// ARGV[2] -> score of the last entry, or +inf
// ARGV[3] -> ID of the last entry, or "" for the first page
// ARGV[4] -> least score of a parked letter
// ARGV[5] -> entries to read at most
//
// Returns ID, score and message of each, in one list. A message is "" if the
// task is gone.
var parkedPageCmd = redis.NewScript(afterLua + `
local first = 0
if ARGV[3] ~= "" then
	first = rankAfter(KEYS[1], ARGV[2], ARGV[3])
end
local found = redis.call("ZREVRANGE", KEYS[1], first, first + ARGV[5] - 1, "WITHSCORES")
local out = {}
for i = 1, #found, 2 do
	if tonumber(found[i + 1]) < tonumber(ARGV[4]) then
		break
	end
	out[#out + 1] = found[i]
	out[#out + 1] = found[i + 1]
	out[#out + 1] = redis.call("HGET", ARGV[1] .. found[i], "msg") or ""
end
return out
`)

// listPageCmd reads a page of a list of IDs, from its head, where others add:
// what they take from its tail moves nothing.
//
// KEYS[1] -> asynq:{dead-letter}:pending or :active
// --
// ARGV[1] -> prefix of the tasks' keys
// ARGV[2] -> index of the first
// ARGV[3] -> index of the last
//
// Returns ID and message of each, in one list. A message is "" if the task is
// gone.
var listPageCmd = redis.NewScript(`
local out = {}
for _, id in ipairs(redis.call("LRANGE", KEYS[1], ARGV[2], ARGV[3])) do
	out[#out + 1] = id
	out[#out + 1] = redis.call("HGET", ARGV[1] .. id, "msg") or ""
end
return out
`)

// pages yields what may fit a filter, a page at a time: from the index if the
// filter names reasons, else all that is dead.
func (s *Store) pages(ctx context.Context, f Filter) iter.Seq2[[]entry, error] {
	if len(f.Reasons) == 0 {
		return s.allPages(ctx)
	}
	return func(yield func([]entry, error) bool) {
		began := time.Now()
		for _, reason := range f.Reasons {
			for page, err := range s.pagesOf(ctx, reason, began) {
				if !yield(page, err) {
					return
				}
			}
		}
	}
}

// allPages yields what is dead: first what arrives, then the parked letters,
// latest first. A letter on its way from the one to the other
// is in the second; the IDs of the first are remembered to see to that.
//
// A letter that is parked again while the pages are read has a later place than
// all that are still to come. So whoever replays as he reads replays none twice.
func (s *Store) allPages(ctx context.Context) iter.Seq2[[]entry, error] {
	return func(yield func([]entry, error) bool) {
		seen := make(map[string]bool)
		for _, key := range []string{pendingKey, activeKey} {
			for start := 0; ; start += pageSize {
				page, err := s.listPage(ctx, key, start)
				if err != nil {
					yield(nil, err)
					return
				}
				arriving := onlyArriving(page, seen)
				if len(arriving) > 0 && !yield(arriving, nil) {
					return
				}
				if len(page) < pageSize {
					break
				}
			}
		}
		last := entry{score: "+inf"}
		for {
			page, err := s.parkedPage(ctx, last)
			if err != nil {
				yield(nil, err)
				return
			}
			if len(page) == 0 {
				return
			}
			last = page[len(page)-1]
			if !yield(unseen(page, seen), nil) {
				return
			}
		}
	}
}

func (s *Store) parkedPage(ctx context.Context, last entry) ([]entry, error) {
	flat, err := parkedPageCmd.Run(ctx, s.rdb, []string{retryKey}, taskPrefix, last.score, last.id, leastParked(), pageSize).StringSlice()
	if err != nil {
		return nil, fmt.Errorf("read the dead letters: %w", err)
	}
	page := make([]entry, 0, len(flat)/3)
	for i := 0; i+2 < len(flat); i += 3 {
		page = append(page, entry{id: flat[i], score: flat[i+1], message: flat[i+2]})
	}
	return page, nil
}

func (s *Store) listPage(ctx context.Context, key string, start int) ([]entry, error) {
	flat, err := listPageCmd.Run(ctx, s.rdb, []string{key}, taskPrefix, start, start+pageSize-1).StringSlice()
	if err != nil {
		return nil, fmt.Errorf("read the dead letters that arrive: %w", err)
	}
	page := make([]entry, 0, len(flat)/2)
	for i := 0; i+1 < len(flat); i += 2 {
		page = append(page, entry{id: flat[i], message: flat[i+1]})
	}
	return page, nil
}

// onlyArriving leaves out what is being replayed, which is not dead just now.
func onlyArriving(page []entry, seen map[string]bool) []entry {
	var out []entry
	for _, e := range page {
		if e.message != "" && !seen[e.id] && e.arrives() {
			seen[e.id] = true
			out = append(out, e)
		}
	}
	return out
}

func unseen(page []entry, seen map[string]bool) []entry {
	var out []entry
	for _, e := range page {
		if e.message != "" && !seen[e.id] {
			out = append(out, e)
		}
	}
	return out
}

// arrives reports whether an entry that is not parked is on its way there; else
// it is being replayed.
func (e entry) arrives() bool {
	m, err := asynqx.ParseMessage([]byte(e.message))
	return err == nil && m.Retried == 0
}

// letter reads an entry: the envelope, brought up to date by what happened in
// the queue since. A message that asynq could not read either is a letter of
// which only the bytes are known.
func (e entry) letter() Letter {
	m, err := asynqx.ParseMessage([]byte(e.message))
	if err != nil {
		return Letter{
			ID: e.id, Queue: tasks.QueueDeadLetter, Payload: []byte(e.message), Reason: tasks.Undecodable,
			Error: string(tasks.Undecodable) + ": " + err.Error(),
		}
	}
	return Decode(e.id, m.Kind, m.Payload).updated(m)
}

// parked reports whether a score is that of a parked letter.
func parked(score string) bool {
	at, err := strconv.ParseFloat(score, 64)
	return err == nil && int64(at) >= leastParked()
}
