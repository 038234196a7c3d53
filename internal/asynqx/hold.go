package asynqx

import (
	"context"
	"strings"

	"github.com/redis/go-redis/v9"
)

// DequeueHook returns a go-redis hook for the Redis client of the asynq servers. It answers
// the question for a task of a queue that it serves in Redis' place. dequeue returns the
// message of a task, perhaps of another queue: the message says of which. It may block for a
// while, since the servers ask again only after the answer.
func DequeueHook(serves func(queue string) bool, dequeue func() (message string, ok bool)) redis.Hook {
	return commandHook(func(next redis.ProcessHook) redis.ProcessHook {
		return func(ctx context.Context, cmd redis.Cmder) error {
			s, isScript := scriptOf(cmd)
			if !isScript {
				return next(ctx, cmd)
			}
			if queue, ok := s.dequeues(); !ok || !serves(queue) {
				return next(ctx, cmd)
			}
			message, ok := dequeue()
			if !ok {
				s.cmd.SetErr(redis.Nil)
				return redis.Nil
			}
			s.cmd.SetVal(message)
			return nil
		}
	})
}

// HoldHook returns a go-redis hook for the Redis client of the asynq servers. While
// hold returns true for a queue, the servers do not forward its tasks that are due. Tasks in
// flight go on, and so do heartbeats, leases and retries.
func HoldHook(hold func(queue string) bool) redis.Hook {
	return commandHook(func(next redis.ProcessHook) redis.ProcessHook {
		return func(ctx context.Context, cmd redis.Cmder) error {
			s, ok := scriptOf(cmd)
			if !ok {
				return next(ctx, cmd)
			}
			if queue, ok := s.forwards(); ok && hold(queue) {
				s.cmd.SetVal(int64(0)) // none was due
				return nil
			}
			return next(ctx, cmd)
		}
	})
}

// RecovererHook returns a go-redis hook for the Redis client of the asynq servers. It
// switches off asynq's recoverer, which takes away every task whose lease has expired
// by this worker's clock for half a minute. If that clock is ahead, these are all
// tasks of the fleet; if another worker's clock is behind, all of that one's. Package
// recovery does this work.
func RecovererHook() redis.Hook {
	return commandHook(func(next redis.ProcessHook) redis.ProcessHook {
		return func(ctx context.Context, cmd redis.Cmder) error {
			if s, ok := scriptOf(cmd); ok && s.listsExpired() {
				s.cmd.SetVal([]any{})
				return nil
			}
			return next(ctx, cmd)
		}
	})
}

// scriptCall is a script on its way to Redis. Which of asynq's scripts it is, its
// keys and the number of its arguments tell: its text may change, and its SHA-1 with
// it.
type scriptCall struct {
	cmd  *redis.Cmd
	keys []any // strings
	args int
}

// scriptOf returns the script that a command runs, if it is EVALSHA or EVAL.
func scriptOf(cmd redis.Cmder) (s scriptCall, ok bool) {
	s.cmd, ok = cmd.(*redis.Cmd)
	if name := cmd.Name(); !ok || name != "evalsha" && name != "eval" {
		return s, false
	}
	args := cmd.Args() // the command, the script, the number of keys, keys, arguments
	const before = 3
	if len(args) < before {
		return s, false
	}
	n, ok := args[before-1].(int)
	if !ok || n > len(args)-before {
		return s, false
	}
	s.keys = args[before : before+n]
	s.args = len(args) - before - n
	return s, true
}

func (s scriptCall) key(i int) string {
	key, _ := s.keys[i].(string)
	return key
}

// is reports whether the script has these keys of one queue, whose name it returns.
func (s scriptCall) is(args int, keys ...string) (queue string, ok bool) {
	if s.args != args || len(s.keys) != len(keys) {
		return "", false
	}
	const begin = "asynq:{"
	tag, _, found := strings.Cut(strings.TrimPrefix(s.key(0), begin), "}:")
	if !found {
		return "", false
	}
	for i, name := range keys {
		if s.key(i) != queueKey(tag, name) {
			return "", false
		}
	}
	return tag, true
}

// dequeues reports whether the script takes a task from a queue.
func (s scriptCall) dequeues() (queue string, ok bool) {
	return s.is(2, "pending", "paused", "active", "lease")
}

// forwards reports whether the script makes tasks pending that are due.
func (s scriptCall) forwards() (queue string, ok bool) {
	if queue, ok = s.is(4, "scheduled", "pending"); ok {
		return queue, true
	}
	return s.is(4, "retry", "pending")
}

// listsExpired reports whether the script lists tasks whose leases have expired.
func (s scriptCall) listsExpired() bool {
	_, ok := s.is(2, "lease")
	return ok
}
