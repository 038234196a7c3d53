package recovery

import "github.com/redis/go-redis/v9"

// The keys of asynq v0.26 that are not of one queue.
const (
	allQueues  = "asynq:queues"  // a set of names
	allServers = "asynq:servers" // a sorted set: each server's key by when its heartbeat expires, in Unix seconds
)

// The fields of a task's hash. asynq leaves the last one alone: it sets and
// deletes single fields, and the whole hash when the task is done.
const (
	hashMsg     = "msg"
	hashState   = "state"
	hashCrashes = "kooworker_crashes"
)

// queue names the keys of one queue. All of them carry its hash tag, so a
// cluster keeps them in one place.
type queue struct {
	name string
	dead bool // whether it is the queue of dead letters

	active    string // a list of IDs that are worked on
	lease     string // a sorted set: those IDs by when their lease ends, in Unix seconds
	pending   string // a list of IDs; its head, which is next, is at the right
	scheduled string // a sorted set, as all others: IDs by when they are due
	retry     string
	archived  string // IDs by when they were archived
	completed string
	paused    string // exists while the queue is paused
	tasks     string // what the keys of the tasks' hashes begin with
}

func newQueue(name, deadLetter string) queue {
	prefix := "asynq:{" + name + "}:"
	return queue{
		name: name, dead: name == deadLetter,
		active: prefix + "active", lease: prefix + "lease", pending: prefix + "pending",
		scheduled: prefix + "scheduled", retry: prefix + "retry", archived: prefix + "archived", completed: prefix + "completed",
		paused: prefix + "paused", tasks: prefix + "t:",
	}
}

// keys are the KEYS of every script about tasks: the queue's sets in a fixed
// order, then the hashes of the given IDs.
func (q queue) keys(ids ...string) []string {
	out := append(make([]string, 0, 7+len(ids)), q.active, q.lease, q.pending, q.scheduled, q.retry, q.archived, q.completed)
	for _, id := range ids {
		out = append(out, q.tasks+id)
	}
	return out
}

// place is where an ID was seen: the number of a sorted set among a script's
// KEYS. For an ID in active that is its lease.
type place int

const (
	nowhere     place = 0
	inLease     place = 2
	inScheduled place = 4
	inRetry     place = 5
	inArchived  place = 6
)

// prelude is what the scripts about tasks begin with. It reads only KEYS that
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
// A pending list is searched from end to end. A long one is not searched at
// all, and what claims to be in it is believed: such a task is judged when the
// list is shorter.
const prelude = `
local SEARCHED = 2000

-- message returns a task's message; nil where there is none.
local function message(key)
  if redis.call("TYPE", key).ok ~= "hash" then return nil end
  return redis.call("HGET", key, "msg") or nil
end

-- placed reports whether an ID is in one of the queue's sets.
local function placed(id, state)
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

-- still reports whether an ID is where it was seen, with the score it had.
local function still(id, key, place, score)
  if place == 0 then
    return not placed(id, redis.call("HGET", key, "state"))
  end
  local found = redis.call("ZSCORE", KEYS[place], id)
  return found and tonumber(found) == tonumber(score)
end

-- leave takes an ID out of all sets but pending.
local function leave(id)
  redis.call("LREM", KEYS[1], 0, id)
  for _, set in ipairs({2, 4, 5, 6, 7}) do redis.call("ZREM", KEYS[set], id) end
end
`

func script(body string) *redis.Script { return redis.NewScript(prelude + body) }
