package recovery

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// Hook returns a go-redis hook that repairs asynq's syncer. It belongs on the
// Redis client of the asynq servers, which should be theirs alone: scripts that
// are run through it cannot be cancelled.
//
// When a server cannot write that a task is done, it leaves that to its syncer,
// which tries again until the task's lease ends. But what it tries again holds
// the context of the first try, and the function that made it has cancelled it
// on return. So the syncer never succeeds, and the task runs a second time: in
// a 10 s outage of Redis, 143 of 143.
//
// The hook takes the cancellation off, and keeps the deadline. That is the end
// of the lease, and no owner may write after it.
func Hook() redis.Hook { return uncancelled{} }

// uncancelled runs scripts without the cancellation of their context. asynq
// runs them as EVALSHA and, where Redis does not know them, EVAL.
type uncancelled struct{}

var _ redis.Hook = uncancelled{}

// DialHook implements redis.Hook; it changes nothing.
func (uncancelled) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessPipelineHook implements redis.Hook; it changes nothing, since asynq
// settles tasks one by one.
func (uncancelled) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// ProcessHook implements redis.Hook.
func (uncancelled) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if name := cmd.Name(); name != "evalsha" && name != "eval" {
			return next(ctx, cmd)
		}
		free := context.WithoutCancel(ctx)
		if deadline, ok := ctx.Deadline(); ok {
			var cancel context.CancelFunc
			free, cancel = context.WithDeadline(free, deadline)
			defer cancel()
		}
		return next(free, cmd)
	}
}
