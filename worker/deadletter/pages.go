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

// pageSize is how many letters one script reads: one or two milliseconds of Redis' time.
const pageSize = 100

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
	set     int    // the set, of a source's
}

// listPageCmd reads a page of a list of IDs, from the left.
//
// KEYS[1] -> asynq:{dead-letter}:pending or :active
// --
// ARGV[1] -> prefix of the tasks' keys
// ARGV[2] -> first index
// ARGV[3] -> last index
//
// Returns of each entry the ID, "" for the score, the message, and "" for the
// cursor, all in one list.
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

// entries runs a script that returns entries.
func (s *Store) entries(ctx context.Context, script *redis.Script, keys []string, args ...any) ([]entry, error) {
	fields, err := script.Run(ctx, s.rdb, keys, args...).StringSlice()
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	page := make([]entry, 0, len(fields)/4)
	for f := range slices.Chunk(fields, 4) {
		page = append(page, entry{id: f[0], score: f[1], message: f[2], cursor: f[3]})
	}
	return page, nil
}

// listPages yields the entries of a list.
func (s *Store) listPages(ctx context.Context, key string) iter.Seq2[[]entry, error] {
	return func(yield func([]entry, error) bool) {
		for start := 0; ; start += pageSize {
			page, err := s.entries(ctx, listPageCmd, []string{key}, taskPrefix, start, start+pageSize-1)
			if !yield(page, err) || len(page) < pageSize {
				return
			}
		}
	}
}

// setPages yields the entries of the retry set.
func (s *Store) setPages(ctx context.Context) iter.Seq2[[]entry, error] {
	return func(yield func([]entry, error) bool) {
		last := entry{cursor: "+inf"}
		for {
			page, err := s.entries(ctx, parkedPageCmd, []string{retryKey}, taskPrefix, last.cursor, last.id, pageSize)
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

// match is a letter that matches a filter.
type match struct {
	entry

	letter Letter
	nth    int // entry of its page, from 1
}

// matches yields the letters that match a filter, page by page: from the index if the filter
// names something that is indexed, otherwise from all letters. It ignores Limit.
func (s *Store) matches(ctx context.Context, f Filter) iter.Seq2[[]match, error] {
	return func(yield func([]match, error) bool) {
		if !f.isIndexed() {
			for page, err := range s.allPages(ctx) {
				var found []match
				for _, e := range page {
					found = append(found, match{entry: e, letter: e.read()})
				}
				if !yield(found, err) || err != nil {
					return
				}
			}
			return
		}
		src, err := s.source(ctx, f)
		if err != nil {
			yield(nil, err)
			return
		}
		at, err := s.Top(ctx)
		for isEnd := false; !isEnd; {
			var page []entry
			if err == nil {
				page, at, isEnd, err = s.read(ctx, src, at, pageSize)
			}
			if !yield(src.selectFrom(f, page), err) || err != nil {
				return
			}
		}
	}
}

// allPages yields every letter: first those that arrive, then the parked ones, latest
// first. It remembers the IDs of the first, since a letter may be parked in between.
func (s *Store) allPages(ctx context.Context) iter.Seq2[[]entry, error] {
	return func(yield func([]entry, error) bool) {
		seen := make(map[string]bool)
		for page, err := range s.arrivingPages(ctx, seen) {
			if !yield(page, err) || err != nil {
				return
			}
		}
		for page, err := range s.setPages(ctx) {
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

// arrivingPages yields the letters that no worker has parked yet, each once, and adds them to seen.
// A page may be empty.
func (s *Store) arrivingPages(ctx context.Context, seen map[string]bool) iter.Seq2[[]entry, error] {
	return func(yield func([]entry, error) bool) {
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

// read decodes an entry: the envelope, and what has happened in the queue since.
func (e entry) read() Letter { return FromMessage(e.id, []byte(e.message)) }

// FromMessage reads a letter from the message in which asynq keeps it. If asynq cannot
// read the message either, only its bytes are known of the letter.
func FromMessage(id string, message []byte) Letter {
	m, err := asynqx.ParseMessage(message)
	if err != nil {
		return Letter{
			ID: id, Queue: tasks.QueueDeadLetter, Payload: message, Reason: tasks.Undecodable,
			Error: string(tasks.Undecodable) + ": " + err.Error(),
		}
	}
	return Decode(id, m.Kind, m.Payload).withReplays(m)
}
