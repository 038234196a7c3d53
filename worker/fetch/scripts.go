package fetch

import (
	"context"
	"errors"
	"slices"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/internal/asynqx"
)

// dequeueCmd does what asynq's own script does, for several tasks.
//
// The leases are in the order of the tasks, and tell of which process they are; see
// asynqx.LeaseStep. So package recovery knows which of the tasks of a dead worker may have
// begun: they begin in that order. Suspects do not, and have leases of whole seconds, as those
// that asynq extends.
//
// KEYS -> pending, paused, active, lease
// ARGV -> when the first lease expires, in µs of Unix time; the prefix of the tasks' keys;
// how many; how far apart the leases are, in µs; the mark of a suspect.
//
// It returns the messages, and nil if the queue is paused. A task without a message stays
// in active, and package recovery finds it.
var dequeueCmd = redis.NewScript(`
local out = {}
local from = tonumber(ARGV[1])
if redis.call("EXISTS", KEYS[2]) == 1 then return false end
for i = 1, tonumber(ARGV[3]) do
  local id = redis.call("RPOPLPUSH", KEYS[1], KEYS[3])
  if not id then break end
  local key = ARGV[2] .. id
  redis.call("HSET", key, "state", "active")
  redis.call("HDEL", key, "pending_since")
  local lease = from + #out * ARGV[4]
  local msg = redis.call("HGET", key, "msg")
  if msg and string.find(msg, ARGV[5], 1, true) then lease = lease - lease % 1000000 end
  redis.call("ZADD", KEYS[4], string.format("%d.%06d", math.floor(lease / 1000000), lease % 1000000), id)
  if msg then out[#out + 1] = msg end
end
return out`)

// dequeueCall takes n tasks from a queue. Their leases begin with lease and are a step apart.
func dequeueCall(queue string, lease, step int64, n int) scriptCall {
	return scriptCall{
		[]string{asynqx.PendingKey(queue), asynqx.PausedKey(queue), asynqx.ActiveKey(queue), asynqx.LeaseKey(queue)},
		[]any{lease, asynqx.TaskKeyPrefix(queue), n, step, asynqx.SuspectHeader},
	}
}

// putBackCmd puts tasks back to the head of their queue, as asynq does at a stop. A task
// whose lease is another one is left alone: somebody else has it by now.
//
// KEYS -> pending, active, lease
// ARGV -> the prefix of the tasks' keys, and for each task its ID and its lease in µs, the
// first to run last.
var putBackCmd = redis.NewScript(`
local now = redis.call("TIME")
local since = now[1] .. string.format("%06d", now[2]) .. "000"
for i = 2, #ARGV, 2 do
  local id, lease = ARGV[i], ARGV[i + 1]
  local score = redis.call("ZSCORE", KEYS[3], id)
  if score and math.abs(score - lease / 1000000) < 0.0000005 and redis.call("LREM", KEYS[2], 0, id) > 0 then
    redis.call("ZREM", KEYS[3], id)
    redis.call("RPUSH", KEYS[1], id)
    redis.call("HSET", ARGV[1] .. id, "state", "pending", "pending_since", since)
  end
end
return redis.status_reply("OK")`)

// putBack puts tasks back that were not begun. If Redis does not answer, their leases
// expire.
func (f *Fetcher) putBack(ctx context.Context, all []fetched) {
	if len(all) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	var queues []string
	calls := make(map[string]*scriptCall)
	for _, t := range slices.Backward(all) {
		m, err := asynqx.ParseMessage([]byte(t.message))
		if err != nil {
			continue // package recovery finds it
		}
		q := t.queue
		if calls[q] == nil {
			queues = append(queues, q)
			calls[q] = &scriptCall{
				[]string{asynqx.PendingKey(q), asynqx.ActiveKey(q), asynqx.LeaseKey(q)},
				[]any{asynqx.TaskKeyPrefix(q)},
			}
		}
		calls[q].args = append(calls[q].args, m.ID, t.lease)
	}
	scripts := make([]scriptCall, len(queues))
	for i, q := range queues {
		scripts[i] = *calls[q]
	}
	if _, err := runAll(ctx, f.cfg.Redis, putBackCmd, scripts, func(redis.Pipeliner) {}); err != nil {
		f.cfg.Logger.Warn("put back tasks that were not begun: they run when their leases have expired", zap.Int("tasks", len(all)), zap.Error(err))
	}
}

// scriptCall is one call of a script.
type scriptCall struct {
	keys []string
	args []any
}

func (c scriptCall) evalSha(ctx context.Context, script *redis.Script) *redis.Cmd {
	args := []any{"evalsha", script.Hash(), len(c.keys)}
	for _, key := range c.keys {
		args = append(args, key)
	}
	return redis.NewCmd(ctx, append(args, c.args...)...)
}

// runAll runs a script several times, and other commands, all in one round trip. The
// keys may be on several nodes of a cluster, so that some replies may be errors while
// others are not.
func runAll(ctx context.Context, rdb redis.UniversalClient, script *redis.Script, calls []scriptCall, others func(redis.Pipeliner)) ([]*redis.Cmd, error) {
	replies := make([]*redis.Cmd, len(calls))
	_, isCluster := rdb.(*redis.ClusterClient)
	p := rdb.Pipeline()
	for i, c := range calls {
		replies[i] = c.evalSha(ctx, script)
		asynqx.SendOnce(ctx, p, isCluster, replies[i])
	}
	others(p)
	asynqx.EachReply(p.Exec(ctx))
	var first error
	for i, c := range calls {
		if asynqx.IsNoScript(replies[i].Err()) {
			replies[i] = script.Eval(ctx, rdb, c.keys, c.args...)
		}
		if err := replies[i].Err(); err != nil && !errors.Is(err, redis.Nil) && first == nil {
			first = err
		}
	}
	return replies, first
}
