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
// leaves out tasks that are pending for less than a minute, so that a busy
// queue's list is not searched for each of them.
//
// KEYS -> as in prelude
// --
// ARGV -> the tasks' IDs
//
// Returns the indices of those in no set, from 1.
var strandedCmd = script(`
local minute = (redis.call("TIME")[1] - 60) * 1e9
local out = {}
for i, id in ipairs(ARGV) do
  local key = KEYS[7 + i]
  if redis.call("TYPE", key).ok == "hash" then
    local got = redis.call("HMGET", key, "state", "pending_since")
    local state, since = got[1], tonumber(got[2] or 0) or 0
    local fresh = state == "pending" and since > minute
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
	stranded, err := r.stranded(ctx, q, ids)
	if err != nil || len(stranded) == 0 {
		return err
	}
	items, err := r.read(ctx, q, inNoSet, stranded)
	if err != nil {
		return err
	}
	var again []item
	for _, it := range items {
		if err := r.repairStranded(ctx, q, it, &again); err != nil {
			return err
		}
	}
	return r.requeue(ctx, q, inNoSet, again, Restored)
}

func (r *Repairer) stranded(ctx context.Context, q queue, ids []string) ([]redis.Z, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = id
	}
	found, err := strandedCmd.Run(ctx, r.cfg.Redis, q.keys(ids...), args...).Int64Slice()
	if err != nil {
		return nil, fmt.Errorf("find tasks in no set: %w", err)
	}
	out := make([]redis.Z, len(found))
	for i, at := range found {
		out[i].Member = ids[at-1]
	}
	return out, nil
}

// repairStranded repairs one task in no set, or adds it to those that run again.
func (r *Repairer) repairStranded(ctx context.Context, q queue, it item, again *[]item) error {
	switch {
	case it.raw == nil, it.err != nil, it.state == "archived":
		_, err := r.isolate(ctx, q, it, r.parkArchived)
		return err
	case it.state == "completed":
		// It is done, and was to be kept for a while. Without the set nothing
		// deletes it after that while, and its ID would stay taken.
		done, err := r.remove(ctx, q, it)
		if done {
			r.report(q, Stray, it.id)
		}
		return err
	case q.dead:
		// Whatever the letter was about to do, nothing is lost if an operator has
		// to replay it.
		return r.repark(ctx, q, it, it.msg.ErrorMsg, Restored)
	default:
		*again = append(*again, it)
		return nil
	}
}
