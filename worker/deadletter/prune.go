package deadletter

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/zset"
	"github.com/kooworker/kooworker/tasks"
)

// pruneCmd removes entries whose letter is gone, and from the list of sets those that are
// empty.
//
// KEYS[1] -> kooworker:{dead-letter}:sets
// --
// ARGV[1] -> prefix of the tasks' keys
// ARGV[2] -> prefix of the sets' keys
// ARGV[3] -> name of the set to continue with
// ARGV[4] -> where to continue in it; 0 to continue behind it
// ARGV[5] -> about how many entries to look at
//
// Returns where the next call continues, as ARGV[3] and ARGV[4], and how many entries
// were removed. The name is "" if there are no further sets.
var pruneCmd = redis.NewScript(`
local set, cursor, seen, removed = ARGV[3], ARGV[4], 0, 0
repeat
	if cursor == "0" then
		set = redis.call("ZRANGEBYLEX", KEYS[1], "(" .. set, "+", "LIMIT", 0, 1)[1]
		if not set then return {"", "0", tostring(removed)} end
	end
	local page = redis.call("ZSCAN", ARGV[2] .. set, cursor, "COUNT", ARGV[5])
	cursor = page[1]
	for i = 1, #page[2], 2 do
		seen = seen + 1
		if redis.call("EXISTS", ARGV[1] .. page[2][i]) == 0 then
			removed = removed + redis.call("ZREM", ARGV[2] .. set, page[2][i])
		end
	end
	if cursor == "0" and redis.call("EXISTS", ARGV[2] .. set) == 0 then redis.call("ZREM", KEYS[1], set) end
	seen = seen + 1
until seen >= tonumber(ARGV[5])
return {set, cursor, tostring(removed)}
`)

// IndexPosition is where PruneIndex continues. The zero value is the beginning.
type IndexPosition struct{ set, cursor string }

// PruneIndex removes from some pages of the index the entries whose letter is gone, and
// moves the position to the next page. After the last page it begins again. A letter
// that is being parked has its entries only after it is stored, so they stay.
func (s *Store) PruneIndex(ctx context.Context, at *IndexPosition) (removed int64, err error) {
	const pages = 3 // a letter is in up to three sets, and each should have its turn as often
	for range pages {
		cursor := at.cursor
		if cursor == "" {
			cursor = "0"
		}
		got, err := pruneCmd.Run(ctx, s.rdb, []string{setsKey}, taskPrefix, indexPrefix, at.set, cursor, pageSize).StringSlice()
		if err == nil && len(got) != 3 {
			err = fmt.Errorf("%d values; want 3", len(got))
		}
		if err != nil {
			return removed, fmt.Errorf("prune the index of dead letters: %w", err)
		}
		n, _ := strconv.ParseInt(got[2], 10, 64)
		removed += n
		if *at = (IndexPosition{got[0], got[1]}); at.set == "" {
			*at = IndexPosition{}
			return removed, nil
		}
	}
	return removed, nil
}

// parkedPageCmd reads a page of asynq's set of the parked letters, the highest score first. A page
// begins after the last entry of the page before, whether or not that entry is still there.
//
// KEYS[1] -> asynq:{dead-letter}:retry
// --
// ARGV[1] -> prefix of the tasks' keys
// ARGV[2] -> score of the last entry; on the first page one above all
// ARGV[3] -> ID of the last entry; on the first page ""
// ARGV[4] -> entries to read at most
//
// Returns of each entry the ID, the score, the message ("" if the letter is gone) and the
// score once more, all in one list.
var parkedPageCmd = redis.NewScript(zset.RankLua + `
local first = redis.call("ZCARD", KEYS[1]) - rank(KEYS[1], ARGV[2], ARGV[3])
local found = redis.call("ZREVRANGE", KEYS[1], first, first + ARGV[4] - 1, "WITHSCORES")
local out = {}
for i = 1, #found, 2 do
	out[#out + 1] = found[i]
	out[#out + 1] = found[i + 1]
	out[#out + 1] = redis.call("HGET", ARGV[1] .. found[i], "msg") or ""
	out[#out + 1] = found[i + 1]
end
return out
`)

// ReindexPosition is where Reindex continues. The zero value is the beginning.
type ReindexPosition struct{ score, id string }

// Reindex reads a page of the parked letters, adds to the index what it lacks of them, and
// moves the position to the next page. After the last page it begins again. A letter gets
// the time of its death as its score.
//
// Workers call it all the time, one page after the other: while workers of an earlier
// version still run, these park letters without the entries of this version.
//
// A letter that is replayed and done between the two steps gets entries that PruneIndex
// removes.
func (s *Store) Reindex(ctx context.Context, at *ReindexPosition) (added int64, err error) {
	score := at.score
	if score == "" {
		score = "+inf"
	}
	page, err := s.entries(ctx, parkedPageCmd, []string{retryKey}, taskPrefix, score, at.id, pageSize)
	if err != nil {
		return 0, err
	}
	if err := indexCmd.Load(ctx, s.rdb).Err(); err != nil {
		return 0, fmt.Errorf("load the script: %w", err)
	}
	const exchange = 100 // letters
	for rest := page; len(rest) > 0; {
		chunk := rest[:min(len(rest), exchange)]
		rest = rest[len(chunk):]
		var replies []*redis.Cmd
		_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, e := range chunk {
				if !e.isDead() {
					continue
				}
				keys, args := indexArgs(e.read(), wasParked)
				replies = append(replies, indexCmd.EvalSha(ctx, p, keys, args...))
			}
			return nil
		})
		if err != nil {
			return added, fmt.Errorf("index dead letters: %w", err)
		}
		for _, reply := range replies {
			n, _ := reply.Int64()
			added += n
		}
	}
	if *at = (ReindexPosition{}); len(page) == pageSize {
		last := page[len(page)-1]
		*at = ReindexPosition{last.cursor, last.id}
	}
	return added, nil
}

// indexVersion is kept in Redis when all letters have the entries of this version.
const indexVersion = "2"

// EnsureIndex makes sure that letters which an earlier version has parked are in the index.
// It does so once for a Redis: a million letters take one or two minutes. Afterwards it reads
// one key, and the same Store does not even read that. If several processes do it at once,
// or one dies, the others go on: an entry is added once.
func (s *Store) EnsureIndex(ctx context.Context) error {
	if s.indexed.Load() {
		return nil
	}
	version, err := s.rdb.Get(ctx, indexedKey).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return fmt.Errorf("read the version of the index of dead letters: %w", err)
	}
	if version == indexVersion {
		s.indexed.Store(true)
		return nil
	}
	var at ReindexPosition
	for first := true; first || at != (ReindexPosition{}); first = false {
		if _, err := s.Reindex(ctx, &at); err != nil {
			return err
		}
	}
	// The sets of an earlier version had no kind in their names.
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, reason := range tasks.Reasons() {
			p.Unlink(ctx, indexPrefix+"reason:"+string(reason))
		}
		p.Set(ctx, indexedKey, indexVersion, 0)
		return nil
	})
	if err != nil {
		return fmt.Errorf("write the version of the index of dead letters: %w", err)
	}
	s.indexed.Store(true)
	return nil
}
