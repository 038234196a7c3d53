package recovery

import (
	"context"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
)

// Fields of our own in a task's hash. The package comment says what they are for.
// Earlier versions counted every crash in kooworker_crashes, which is not read any
// more.
const (
	hashAlone        = "kooworker_alone"         // the process that calls this suspect
	hashCleared      = "kooworker_cleared"       // it was a suspect and has survived
	hashCrashesAlone = "kooworker_crashes_alone" // crashes while it was called alone
	hashCrashesCalm  = "kooworker_crashes_calm"  // those of them in which nobody else died
)

// queue is one of asynq's queues.
type queue struct {
	name string
	dead bool // whether it is the queue of dead letters
}

// keys are the KEYS of every script about tasks: the queue's sets in a fixed
// order, then the hashes of the given IDs.
func (q queue) keys(ids ...string) []string {
	out := append(make([]string, 0, 7+len(ids)),
		asynqx.ActiveKey(q.name), asynqx.LeaseKey(q.name), asynqx.PendingKey(q.name), asynqx.ScheduledKey(q.name),
		asynqx.RetryKey(q.name), asynqx.ArchivedKey(q.name), asynqx.CompletedKey(q.name))
	for _, id := range ids {
		out = append(out, asynqx.TaskKey(q.name, id))
	}
	return out
}

// setIndex says in which sorted set an ID was seen: the set's number among a
// script's KEYS. For an ID in active it is the lease's.
type setIndex int

const (
	inNoSet     setIndex = 0
	inLease     setIndex = 2
	inScheduled setIndex = 4
	inRetry     setIndex = 5
	inArchived  setIndex = 6
)

// prelude is the beginning of the scripts about tasks. It reads only KEYS that
// every one of them has:
//
//	KEYS[1] -> asynq:{<queue>}:active
//	KEYS[2] -> asynq:{<queue>}:lease
//	KEYS[3] -> asynq:{<queue>}:pending
//	KEYS[4] -> asynq:{<queue>}:scheduled
//	KEYS[5] -> asynq:{<queue>}:retry
//	KEYS[6] -> asynq:{<queue>}:archived
//	KEYS[7] -> asynq:{<queue>}:completed
//	KEYS[8…] -> asynq:{<queue>}:t:<task_id>
//
// A pending list is searched from end to end. A long one is not searched at all:
// a task whose state is pending then counts as being in it. The task is looked at
// again when the list is shorter.
const prelude = `
local SEARCHED = 2000

-- message returns a task's message; nil if there is none.
local function message(key)
  if redis.call("TYPE", key).ok ~= "hash" then return nil end
  return redis.call("HGET", key, "msg") or nil
end

-- inAnySet reports whether an ID is in one of the queue's sets.
local function inAnySet(id, state)
  for _, set in ipairs({2, 4, 5, 6, 7}) do
    if redis.call("ZSCORE", KEYS[set], id) then return true end
  end
  if redis.call("LLEN", KEYS[3]) <= SEARCHED then
    if redis.call("LPOS", KEYS[3], id) then return true end
  elseif state == "pending" then
    return true
  end
  return redis.call("LPOS", KEYS[1], id) and true or false
end

-- unchanged reports whether an ID is where it was seen, with the score it had.
local function unchanged(id, key, set, score)
  if set == 0 then
    return not inAnySet(id, redis.call("HGET", key, "state"))
  end
  local found = redis.call("ZSCORE", KEYS[set], id)
  return found and tonumber(found) == tonumber(score)
end

-- removeFromAll removes an ID from all sets but pending.
local function removeFromAll(id)
  redis.call("LREM", KEYS[1], 0, id)
  for _, set in ipairs({2, 4, 5, 6, 7}) do redis.call("ZREM", KEYS[set], id) end
end
`

func script(body string) *redis.Script { return redis.NewScript(prelude + body) }

// run runs a script within opTimeout.
func (r *Repairer) run(ctx context.Context, s *redis.Script, keys []string, args ...any) *redis.Cmd {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	return s.Run(ctx, r.cfg.Redis, keys, args...)
}
