package deadletter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/zset"
)

// source is where the letters that may match a filter are: in some sets of the index, or,
// if the filter names letters, these.
type source struct {
	ids  []string // descending
	keys []string // the sets; the last one is misdated
	// slots are the slots of the first sets, if their letters count only there.
	slots []slot
	// from and to bound the scores in all sets but misdated. They are 0 and topScore if the
	// filter has no age.
	from, to int64
	// entries is how many entries there are between the bounds, those of gone letters included.
	entries int64
}

// isIndexed reports whether the index serves a filter better than reading everything.
func (f Filter) isIndexed() bool {
	return len(f.IDs) > 0 || len(f.Kinds) > 0 || len(f.Reasons) > 0 || f.UserID != "" || f.Batch != "" || !f.DeadBefore.IsZero() || !f.DeadAfter.IsZero()
}

// source finds the source of a filter: of the sets that list all that matches, the
// smallest ones.
func (s *Store) source(ctx context.Context, f Filter) (source, error) {
	if len(f.IDs) > 0 {
		ids := slices.Clone(f.IDs)
		slices.Sort(ids)
		ids = slices.Compact(ids)
		slices.Reverse(ids)
		return source{ids: ids, entries: int64(len(ids))}, nil
	}
	if err := s.EnsureIndex(ctx); err != nil {
		return source{}, err
	}
	best := source{slots: slots(f.Reasons, f.Kinds)}
	for _, at := range best.slots {
		best.keys = append(best.keys, indexPrefix+at.set())
	}
	candidates := []source{best}
	if f.UserID != "" {
		candidates = append(candidates, source{keys: []string{indexPrefix + userSet(f.UserID)}})
	}
	if f.Batch != "" {
		candidates = append(candidates, source{keys: []string{indexPrefix + batchSet(f.Batch)}})
	}
	from, to := int64(0), int64(topScore)
	if !f.DeadAfter.IsZero() {
		from = f.DeadAfter.UnixMicro() - maxClockSkew
	}
	if !f.DeadBefore.IsZero() {
		to = f.DeadBefore.UnixMicro() + maxClockSkew
	}
	sizes := make([][]*redis.IntCmd, len(candidates))
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, c := range candidates {
			for _, key := range c.keys {
				sizes[i] = append(sizes[i], p.ZCount(ctx, key, strconv.FormatInt(from, 10), strconv.FormatInt(to, 10)))
			}
		}
		return nil
	})
	if err != nil {
		return source{}, fmt.Errorf("read the index of dead letters: %w", err)
	}
	for i, c := range candidates {
		c.from, c.to = from, to
		for _, size := range sizes[i] {
			c.entries += size.Val()
		}
		if i == 0 || c.entries < best.entries {
			best = c
		}
	}
	best.keys = append(best.keys, indexPrefix+misdatedSet)
	return best, nil
}

// Top returns a position below all letters that die from now on. Those that are dead
// are behind it.
func (s *Store) Top(ctx context.Context) (Position, error) {
	last, err := s.rdb.Get(ctx, clockKey).Int64()
	if err != nil && !errors.Is(err, redis.Nil) {
		return Position{}, fmt.Errorf("read the index of dead letters: %w", err)
	}
	return Position{score: last + 1}, nil
}

// readCmd reads a page of sets of IDs, the highest score first, as if they were one
// set. A page begins after the last entry of the page before, whether or not that entry is
// still there. So others may move letters meanwhile, and none is skipped or read twice. It
// works when memory is full.
//
// KEYS[1] -> asynq:{dead-letter}:retry
// KEYS[2…] -> sets of the index; the last is misdated
// --
// ARGV[1] -> prefix of the tasks' keys
// ARGV[2] -> score of the last entry; on the first page one above all to read
// ARGV[3] -> ID of the last entry; on the first page ""
// ARGV[4] -> entries to read at most
// ARGV[5] -> lowest score to read, but for the last set
// ARGV[6] -> a score above all to read, but for the last set
//
// It reads fewer entries where there are very many sets. It removes the entries whose letter is gone.
//
// Returns "1" if nothing is left to read and else "0", then of each entry the ID, the score
// in the retry set ("" if it is not there), the message ("" if the letter is gone), its score in
// its set, and the set's number, from 0, all in one list.
var readCmd = redis.NewScript(zset.RankLua + `
local call = redis.call
local heads = {}
for k = 2, #KEYS do
	local size = call("ZCARD", KEYS[k])
	if size > 0 then
		local score, id, least = ARGV[2], ARGV[3], "0"
		if k < #KEYS then
			least = ARGV[5]
			if tonumber(ARGV[6]) < tonumber(score) then score, id = ARGV[6], "" end
		end
		local first = size - rank(KEYS[k], score, id)
		if first < size then
			heads[#heads + 1] = {key = KEYS[k], set = tostring(k - 2), next = first, least = tonumber(least), i = -1, buffer = {}}
		end
	end
end

-- Choosing the next of many sets takes longer than reading it.
local most = math.min(tonumber(ARGV[4]), math.max(50, math.floor(4000 / math.max(#heads, 1))))
local step = math.max(8, math.ceil(most / math.max(#heads, 1)))
local function advance(h) -- to the next entry; false if there is none
	h.i = h.i + 2
	if h.i > #h.buffer then
		h.buffer = call("ZREVRANGE", h.key, h.next, h.next + step - 1, "WITHSCORES")
		h.next, h.i = h.next + step, 1
		if #h.buffer == 0 then return false end
	end
	h.score = tonumber(h.buffer[h.i + 1])
	return h.score >= h.least
end
local live = {}
for _, h in ipairs(heads) do
	if advance(h) then live[#live + 1] = h end
end

local out, gone, n = {"1"}, {}, 0
while #live > 0 do
	if n == most then
		out[1] = "0"
		break
	end
	local at, h = 1, live[1]
	for i = 2, #live do
		local a = live[i]
		if a.score > h.score or a.score == h.score and before(h.buffer[h.i], a.buffer[a.i]) then at, h = i, a end
	end
	local id, o = h.buffer[h.i], n * 5 + 1
	local message = call("HGET", ARGV[1] .. id, "msg")
	if not message then gone[#gone + 1] = {h.key, id} end
	out[o + 1], out[o + 2], out[o + 3], out[o + 4], out[o + 5] = id, call("ZSCORE", KEYS[1], id) or "", message or "", h.buffer[h.i + 1], h.set
	n = n + 1
	if not advance(h) then table.remove(live, at) end
end
for _, g in ipairs(gone) do call("ZREM", g[1], g[2]) end
return out
`)

// read reads a page of a source: up to n entries behind a position. It returns those that may
// match, and the position behind the page.
func (s *Store) read(ctx context.Context, src source, at Position, n int) (page []entry, next Position, isEnd bool, err error) {
	if src.ids != nil {
		return s.readIDs(ctx, src.ids, at, n)
	}
	if at.IsZero() {
		at.score = topScore
	}
	fields, err := readCmd.Run(ctx, s.rdb, append([]string{retryKey}, src.keys...), taskPrefix, at.score, at.id, n, src.from, src.to+1).StringSlice()
	if err == nil && len(fields)%5 != 1 {
		err = errors.New("an answer that makes no sense")
	}
	if err != nil {
		return nil, at, false, fmt.Errorf("read dead letters: %w", err)
	}
	for f := range slices.Chunk(fields[1:], 5) {
		e := entry{id: f[0], score: f[1], message: f[2], cursor: f[3]}
		if e.set, err = strconv.Atoi(f[4]); err != nil {
			return nil, at, false, fmt.Errorf("read dead letters: %w", err)
		}
		page, next = append(page, e), e.position()
	}
	if len(page) == 0 {
		next = at
	}
	return page, next, fields[0] == "1", nil
}

// position is the place behind an entry.
func (e entry) position() Position {
	score, _ := strconv.ParseFloat(e.cursor, 64)
	return Position{int64(score), e.id}
}

// readIDs reads letters that were named. They have no scores: the latest ID comes first.
func (s *Store) readIDs(ctx context.Context, ids []string, at Position, n int) (page []entry, next Position, isEnd bool, err error) {
	const named = 2 // the score of all positions among them, but for the first, which is 1 or a time
	if at.score == named {
		ids = slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return strings.Compare(id, at.id) >= 0 })
	}
	isEnd = len(ids) <= n
	ids = ids[:min(len(ids), n)]
	if len(ids) == 0 {
		return nil, at, true, nil
	}
	messages, scores := make([]*redis.StringCmd, len(ids)), make([]*redis.FloatCmd, len(ids))
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, id := range ids {
			messages[i], scores[i] = p.HGet(ctx, taskPrefix+id, asynqx.FieldMsg), p.ZScore(ctx, retryKey, id)
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, at, false, fmt.Errorf("read dead letters: %w", err)
	}
	for i, id := range ids {
		e := entry{id: id, message: messages[i].Val(), cursor: strconv.Itoa(named)}
		if scores[i].Err() == nil {
			e.score = strconv.FormatInt(int64(scores[i].Val()), 10)
		}
		page = append(page, e)
	}
	return page, page[len(page)-1].position(), isEnd, nil
}

// selects reports whether an entry of the source is a letter that matches. A letter that is in
// several sets counts in one of them: in the set of the reason that it shows; and in
// misdated only if its score is out of the bounds of the others.
func (src source) selects(f Filter, e entry) (l Letter, ok bool) {
	if !f.mayMatch(e.message) || !e.isDead() {
		return l, false
	}
	l = e.read()
	if !f.matches(l) {
		return l, false
	}
	switch last := len(src.keys) - 1; {
	case src.ids != nil:
		return l, true
	case e.set == last:
		score := e.position().score
		return l, score < src.from || score > src.to
	case src.slots != nil:
		return l, src.slots[e.set] == slotOf(l)
	}
	return l, true
}

// selectFrom returns the letters of a page that match.
func (src source) selectFrom(f Filter, page []entry) (found []match) {
	for i, e := range page {
		if l, ok := src.selects(f, e); ok {
			found = append(found, match{e, l, i + 1})
		}
	}
	return found
}
