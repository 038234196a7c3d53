package recovery

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// strandedCmd finds tasks that are in no set. It is atomic, and therefore seeing a
// task once is enough: see the package comment.
//
// It leaves out tasks that wait in a group, which none of ours does. It also
// leaves out tasks that have been pending for less than a minute, so that a busy
// queue's list is not searched for each of them.
//
// KEYS -> as in prelude
// --
// ARGV -> the tasks' IDs
//
// Returns the indices of those in no set, from 1.
var strandedCmd = script(`
local aMinuteAgo = (redis.call("TIME")[1] - 60) * 1e9
local out = {}
for i, id in ipairs(ARGV) do
  local key = KEYS[7 + i]
  if redis.call("TYPE", key).ok == "hash" then
    local got = redis.call("HMGET", key, "state", "pending_since")
    local state, since = got[1], tonumber(got[2] or 0) or 0
    local fresh = state == "pending" and since > aMinuteAgo
    if state ~= "aggregating" and not fresh and not inAnySet(id, state) then table.insert(out, i) end
  end
end
return out
`)

// restore repairs those of some tasks that are in no set.
func (r *Repairer) restore(ctx context.Context, q queue, ids []string) error {
	if err := r.ensureLock(ctx); err != nil {
		return err
	}
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = id
	}
	found, err := r.run(ctx, strandedCmd, q.keys(ids...), args...).Int64Slice()
	if err != nil {
		return fmt.Errorf("find tasks in no set: %w", err)
	}
	stranded := make([]redis.Z, len(found))
	for i, at := range found {
		stranded[i].Member = ids[at-1]
	}
	items, err := r.read(ctx, q, inNoSet, stranded)
	if err != nil {
		return err
	}
	var again []item
	for _, it := range items {
		switch {
		case it.raw == nil, it.err != nil, it.state == "archived":
			_, err = r.isolate(ctx, q, it)
		case it.state == "completed":
			// The task is done, and asynq keeps it for its retention. asynq deletes
			// completed tasks by their set, so without the set its ID would stay taken.
			err = r.remove(ctx, q, it, Stray)
		case q.dead:
			// The letter may have been about to run. Nothing is lost if it is parked:
			// an operator can replay it.
			err = r.repark(ctx, q, it, it.msg.ErrorMsg, Restored)
		default:
			again = append(again, it)
		}
		if err != nil {
			return err
		}
	}
	return r.requeue(ctx, q, inNoSet, again, Restored)
}
