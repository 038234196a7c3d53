package recovery

import (
	"context"
	"fmt"
	"strconv"
)

// requeueCmd puts tasks at the head of pending. All of it is atomic.
//
// A task whose hash says that it waits in another set, and that is in one, was
// in active by mistake: it only leaves active and lease. So a parked letter
// whose ID strays into active is not replayed.
//
// The first write frees memory, so that Redis allows the rest even when full.
//
// KEYS -> as in prelude
// --
// ARGV[1] -> the place where the IDs were seen, 0 for no set
// ARGV[2…] -> for each task its ID, its score there, and its new count of
// crashes or "" to leave it
//
// Returns for each task 1 if it was requeued, 2 if it only left active, and 0
// if it is not as it was seen.
var requeueCmd = script(`
local place = tonumber(ARGV[1])
local now = redis.call("TIME")
local since = now[1] .. string.format("%06d", now[2]) .. "000"
local out = {}
for i = 1, #KEYS - 7 do
  local key = KEYS[7 + i]
  local id, score, crashes = ARGV[3 * i - 1], ARGV[3 * i], ARGV[3 * i + 1]
  out[i] = 0
  if message(key) and still(id, key, place, score) then
    local state = redis.call("HGET", key, "state")
    redis.call("LREM", KEYS[1], 0, id)
    redis.call("ZREM", KEYS[2], id)
    if state ~= "active" and placed(id, state) then
      out[i] = 2
    else
      redis.call("RPUSH", KEYS[3], id)
      redis.call("HSET", key, "state", "pending", "pending_since", since)
      if crashes ~= "" then redis.call("HSET", key, "kooworker_crashes", crashes) end
      out[i] = 1
    end
  end
end
return out
`)

// requeued is an item to requeue; crashed counts this as a crash.
type requeued struct {
	item
	crashed bool
}

// requeue makes tasks run again, at once and uncharged, and reports them as the
// given repair.
func (r *Repairer) requeue(ctx context.Context, q queue, where place, items []requeued, as Repair) error {
	if len(items) == 0 {
		return nil
	}
	ids, args := make([]string, len(items)), []any{int(where)}
	for i, it := range items {
		ids[i] = it.id
		crashes := ""
		if it.crashed {
			crashes = strconv.Itoa(it.crashes + 1)
		}
		args = append(args, it.id, it.scoreArg(), crashes)
	}
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	got, err := requeueCmd.Run(ctx, r.cfg.Redis, q.keys(ids...), args...).Int64Slice()
	if err != nil {
		return fmt.Errorf("requeue: %w", err)
	}
	var done, stray []string
	for i, n := range got {
		switch n {
		case 1:
			done = append(done, ids[i])
		case 2:
			stray = append(stray, ids[i])
		}
	}
	r.report(q, as, done...)
	r.report(q, Stray, stray...)
	return nil
}
