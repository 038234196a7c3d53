package deadletter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// verb is what is done to letters.
type verb struct {
	name  string
	chunk int // letters of one script, which takes Redis less than 2 ms
}

var (
	replay  = verb{"replay", 100}
	discard = verb{"discard", 50}
)

// Fence makes a change of all that match go on exactly where it was interrupted, in
// whatever process. Each chunk of letters is changed, counted and passed in one atomic step, and only by
// the process that holds the lease. So if a process dies, or is frozen and wakes up when
// another one has gone on, no letter is changed twice and none is left out.
//
// All keys have the hash tag {dead-letter}.
type Fence struct {
	// Lease is a key, and Token its value while this process holds the lease.
	Lease, Token string
	// Record is a hash. Its field "position" is where the change has come to. The fields
	// "looked", "matched", "done" and "skipped" count entries of the index and letters. If it has
	// a field "stop", the change does not go on. "canary_sent_at" is when the latest letter of
	// the canary was replayed, in Unix ms by Redis' clock.
	Record string
	// Canary is a hash of the letters of the canary: of each ID the SHA-1 of the message that was replayed.
	Canary string

	// At, Matched and CanarySent are what was read from these keys. At begins with
	// the position that Top returned when the change was ordered.
	At         Position
	Matched    int
	CanarySent map[string]string
	// OnCanary is called when the canary has succeeded.
	OnCanary func(ctx context.Context, replayed, succeeded int) error
}

// ErrFenced is returned by Replay and Discard if another process has taken the change over.
var ErrFenced = errors.New("another process has taken over")

// ErrStopped is returned by Replay and Discard if somebody has stopped the change.
var ErrStopped = errors.New("the change was stopped")

// check returns an error if the process must not go on. A nil Fence is none.
func (f *Fence) check(ctx context.Context, rdb redis.UniversalClient) error {
	if f == nil {
		return nil
	}
	var token *redis.StringCmd
	var stopped *redis.BoolCmd
	_, err := rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		token, stopped = p.Get(ctx, f.Lease), p.HExists(ctx, f.Record, "stop")
		return nil
	})
	switch {
	case err != nil && !errors.Is(err, redis.Nil):
		return fmt.Errorf("dead letters: %w", err)
	case token.Val() != f.Token:
		return ErrFenced
	case stopped.Val():
		return ErrStopped
	}
	return nil
}

// step is a step of a change: some letters, and how it moves the position.
type step struct {
	from, to                 Position
	looked, matched, skipped int
	canary                   bool
}

// changeCmd replays or discards letters that are parked and have not changed since they were
// read: they may have been replayed, and have died of another reason, since then. With a
// fence it moves the position and counts as well. All of it is atomic.
//
// KEYS[1] -> asynq:{dead-letter}:retry
// KEYS[2] -> asynq:{dead-letter}:pending
// KEYS[3] -> kooworker:{dead-letter}:misdated
// KEYS[4], KEYS[5], KEYS[6] -> the fence's lease, record and canary, if there is one
// --
// ARGV[1] -> replay or discard
// ARGV[2] -> least score of a parked letter
// ARGV[3] -> the current time in Unix ns, which asynq keeps of pending tasks
// ARGV[4] -> prefix of the tasks' keys
// ARGV[5] -> prefix of the index
// ARGV[6] -> the reasons of the index, with spaces between them
// ARGV[7] -> the fence's token
// ARGV[8], ARGV[9] -> the position before and after
// ARGV[10], ARGV[11], ARGV[12] -> what to add to looked, matched and skipped
// ARGV[13] -> 1 if the letters are of the canary
// ARGV[14…] -> of each letter the ID, the message that was read, its kind in the index, and
// its sets for user and batch, "" for none
//
// Returns of each letter 1, or 0 if it has changed or is not parked any more. Instead it
// returns -1 if the lease is lost or somebody has moved the position, and -2 if the change
// was stopped.
var changeCmd = redis.NewScript(`
local fenced, record = #KEYS > 3, KEYS[5]
if fenced then
	if redis.call("GET", KEYS[4]) ~= ARGV[7] then return {-1} end
	if redis.call("HEXISTS", record, "stop") == 1 then return {-2} end
	if (redis.call("HGET", record, "position") or "") ~= ARGV[8] then return {-1} end
	-- The first write is one that a full Redis refuses.
	redis.call("HSET", record, "position", ARGV[9])
end

local reasons, out, done = {}, {}, 0
for reason in ARGV[6]:gmatch("%S+") do reasons[#reasons + 1] = reason end
for i = 14, #ARGV, 5 do
	local id, message, key = ARGV[i], ARGV[i + 1], ARGV[4] .. ARGV[i]
	local score = redis.call("ZSCORE", KEYS[1], id)
	if not score or tonumber(score) < tonumber(ARGV[2]) or redis.call("HGET", key, "msg") ~= message then
		out[#out + 1] = 0
	else
		redis.call("ZREM", KEYS[1], id)
		if ARGV[1] == "replay" then
			redis.call("LPUSH", KEYS[2], id)
			redis.call("HSET", key, "state", "pending", "pending_since", ARGV[3])
			if ARGV[13] == "1" then redis.call("HSET", KEYS[6], id, redis.sha1hex(message)) end
		else
			redis.call("DEL", key)
			redis.call("ZREM", KEYS[3], id)
			for _, reason in ipairs(reasons) do redis.call("ZREM", ARGV[5] .. "reason:" .. reason .. ":" .. ARGV[i + 2], id) end
			for j = i + 3, i + 4 do
				if ARGV[j] ~= "" then redis.call("ZREM", ARGV[5] .. ARGV[j], id) end
			end
		end
		out[#out + 1], done = 1, done + 1
	end
end

if fenced then
	redis.call("HINCRBY", record, "looked", ARGV[10])
	redis.call("HINCRBY", record, "matched", ARGV[11])
	redis.call("HINCRBY", record, "skipped", ARGV[12] + #out - done)
	redis.call("HINCRBY", record, "done", done)
	if ARGV[13] == "1" then
		local now = redis.call("TIME")
		redis.call("HSET", record, "canary_sent_at", string.format("%.0f", now[1] * 1000 + math.floor(now[2] / 1000)))
	end
end
return out
`)

// change changes some letters in one exchange with Redis. It returns those that had not
// changed.
func (s *Store) change(ctx context.Context, v verb, chunk []match, fence *Fence, st step) (done []match, err error) {
	if fence == nil && len(chunk) == 0 {
		return nil, nil
	}
	keys := []string{retryKey, pendingKey, indexPrefix + misdatedSet}
	canary, token := "0", ""
	if fence != nil {
		keys, token = append(keys, fence.Lease, fence.Record, fence.Canary), fence.Token
		if st.canary {
			canary = "1"
		}
	}
	args := []any{
		v.name, minParkedScore(), time.Now().UnixNano(), taskPrefix, indexPrefix, reasonWords(), token,
		st.from.String(), st.to.String(), st.looked, st.matched, st.skipped, canary,
	}
	for _, m := range chunk {
		user, batch := "", ""
		if m.letter.UserID != "" {
			user = userSet(m.letter.UserID)
		}
		if m.letter.Batch != "" {
			batch = batchSet(m.letter.Batch)
		}
		args = append(args, m.id, m.message, string(slotOf(m.letter).kind), user, batch)
	}
	results, err := changeCmd.Run(ctx, s.rdb, keys, args...).Int64Slice()
	switch {
	case err != nil:
		return nil, fmt.Errorf("dead letters: %w", err)
	case len(results) == 1 && results[0] == -1:
		return nil, ErrFenced
	case len(results) == 1 && results[0] == -2:
		return nil, ErrStopped
	case len(results) != len(chunk):
		return nil, fmt.Errorf("dead letters: %d answers for %d letters", len(results), len(chunk))
	}
	for i, m := range chunk {
		if results[i] == 1 {
			done = append(done, m)
		}
	}
	return done, nil
}

// Entries returns how many entries of the index a filter makes Replay and Discard look at.
func (s *Store) Entries(ctx context.Context, f Filter) (int64, error) {
	src, err := s.source(ctx, f)
	return src.entries, err
}
