package recovery

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// restoreChunk is how many tasks strandedCmd looks at: less than a millisecond of
// Redis' time.
const restoreChunk = 100

// strandedCmd finds tasks that are in no set. It is atomic, and therefore seeing a
// task once is enough: see the package comment. It leaves out tasks that wait in a
// group, which none of ours does.
//
// Almost every task is where its state says. That is looked up first, in pending by a
// table: so a short list is searched once and not for each task.
//
// KEYS -> as in prelude
// --
// ARGV -> the tasks' IDs
//
// Returns the indices of those in no set, from 1.
var strandedCmd = script(`
local sets = {active = 2, scheduled = 4, retry = 5, archived = 6, completed = 7}
local long, pending = redis.call("LLEN", KEYS[3]) > SEARCHED, nil
local function isPending(id)
  if not pending then
    pending = {}
    for _, id in ipairs(redis.call("LRANGE", KEYS[3], 0, -1)) do pending[id] = true end
  end
  return pending[id]
end
local out = {}
for i, id in ipairs(ARGV) do
  local state = redis.pcall("HGET", KEYS[7 + i], "state")
  if type(state) ~= "table" then -- not the error of a key that is no hash
    local placed = state == "aggregating"
    if state == "pending" then
      placed = long or isPending(id)
    elseif sets[state] then
      placed = redis.call("ZSCORE", KEYS[sets[state]], id)
    end
    if not placed and redis.call("TYPE", KEYS[7 + i]).ok == "hash" and not inAnySet(id, state) then table.insert(out, i) end
  end
end
return out
`)

// stranded reads those of some tasks that are in no set.
func (r *Repairer) stranded(ctx context.Context, q queue, ids []string) ([]item, error) {
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = id
	}
	found, err := r.run(ctx, strandedCmd, q.keys(ids...), args...).Int64Slice()
	if err != nil {
		return nil, fmt.Errorf("find tasks in no set: %w", err)
	}
	stranded := make([]redis.Z, len(found))
	for i, at := range found {
		stranded[i].Member = ids[at-1]
	}
	return r.read(ctx, q, inNoSet, stranded)
}

// restore repairs those of some tasks that are in no set.
func (r *Repairer) restore(ctx context.Context, q queue, ids []string) error {
	if err := r.ensureLock(ctx); err != nil {
		return err
	}
	items, err := r.stranded(ctx, q, ids)
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
