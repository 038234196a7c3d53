package recovery

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/kooworker/kooworker/internal/asynqx"
)

// requeueCmd puts tasks at the head of pending, or into retry for a pause. All of it is
// atomic.
//
// A task may be in active by mistake: its hash says that it waits in another set,
// and it is in a set. Such a task only leaves active and lease. So a parked letter
// whose ID was added to active is not replayed.
//
// The first write frees memory, so that Redis allows the others even when it is full.
//
// KEYS -> as in prelude
// --
// ARGV[1] -> the set where the IDs were seen, 0 for no set
// ARGV[2…] -> for each task its ID, its score there, its message as it was read,
// and if its worker died the message with the mark of a suspect, else ""; then its
// new counts of crashes and its pause in seconds, or "" for none of that
//
// Returns for each task 1 if it was requeued, 2 if it only left active, and 0 if
// it has changed since it was seen.
var requeueCmd = script(`
local set = tonumber(ARGV[1])
local now = redis.call("TIME")
local since = now[1] .. string.format("%06d", now[2]) .. "000"
local out = {}
for i = 1, #KEYS - 7 do
  local key = KEYS[7 + i]
  local id, score, seen, marked, alone, calm, pause = unpack(ARGV, 7 * i - 5, 7 * i + 1)
  local found = message(key)
  out[i] = 0
  if found and (marked == "" or found == seen) and unchanged(id, key, set, score) then
    local state = redis.call("HGET", key, "state")
    redis.call("LREM", KEYS[1], 0, id)
    redis.call("ZREM", KEYS[2], id)
    if state ~= "active" and inAnySet(id, state) then
      out[i] = 2
    else
      if pause == "" then
        redis.call("RPUSH", KEYS[3], id)
        redis.call("HSET", key, "state", "pending", "pending_since", since)
      else
        redis.call("ZADD", KEYS[5], now[1] + pause, id)
        redis.call("HSET", key, "state", "retry")
      end
      redis.call("HDEL", key, "kooworker_alone")
      if marked ~= "" then
        redis.call("HSET", key, "msg", marked)
        redis.call("HDEL", key, "kooworker_cleared")
      end
      if alone ~= "" then redis.call("HSET", key, "kooworker_crashes_alone", alone, "kooworker_crashes_calm", calm) end
      out[i] = 1
    end
  end
end
return out
`)

// suspectPause is how long a suspect pauses whose crash has counted. Meanwhile others
// have their turn: if somebody kills the workers from outside, the crashes are spread
// over many suspects.
const suspectPause = time.Minute

// marks are the last five arguments of requeueCmd.
func (it item) marks() []any {
	seen, marked, alone, calm, pause := "", "", "", "", ""
	if it.suspect {
		// A message that cannot be marked cannot be read either, and is not requeued.
		if raw, err := asynqx.MarkSuspect([]byte(*it.raw)); err == nil {
			seen, marked = *it.raw, string(raw)
		}
	}
	if it.counted {
		alone, calm = strconv.Itoa(it.crashes.alone), strconv.Itoa(it.crashes.calm)
		pause = strconv.Itoa(int(suspectPause.Seconds()))
	}
	return []any{seen, marked, alone, calm, pause}
}

// requeue makes tasks run again, at once and without charging a retry. It reports
// them as the given repair.
func (r *Repairer) requeue(ctx context.Context, q queue, in setIndex, items []item, as Repair) error {
	if len(items) == 0 {
		return nil
	}
	ids, args := make([]string, len(items)), []any{int(in)}
	for i, it := range items {
		ids[i] = it.id
		args = append(args, it.id, it.score)
		args = append(args, it.marks()...)
	}
	got, err := r.run(ctx, requeueCmd, q.keys(ids...), args...).Int64Slice()
	if err != nil {
		return fmt.Errorf("requeue: %w", err)
	}
	var done, stray []string
	for i, n := range got {
		switch n {
		case 1:
			done = append(done, ids[i])
			if as == Requeued {
				r.countRecovered(items[i])
			}
		case 2:
			stray = append(stray, ids[i])
		}
	}
	r.logRepairs(q, as, done...)
	r.logRepairs(q, Stray, stray...)
	return nil
}
