package asynqx

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// SyncerHook returns a go-redis hook that repairs asynq's syncer. It belongs on
// the Redis client of the asynq servers, which should be theirs alone: a script
// that is run through it cannot be cancelled.
//
// When a server cannot write that a task is done, it leaves that to its syncer,
// which tries again until the task's lease ends. But each further try uses the
// context of the first one, and asynq has cancelled that context by then. So the
// syncer never succeeds, and the task runs a second time: in a 10 s outage of
// Redis, 143 of 143 tasks did.
//
// The hook removes the cancellation, and keeps the deadline. That is the end of
// the lease, after which no owner may write.
func SyncerHook() redis.Hook { return commandHook(syncerHook) }

// commandHook is a hook on single commands. It leaves pipelines alone, since asynq's servers
// send none: those on their client are of CoalesceHook, whose commands have come by here, and
// of package fetch.
type commandHook func(next redis.ProcessHook) redis.ProcessHook

// DialHook implements redis.Hook; it changes nothing.
func (commandHook) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessPipelineHook implements redis.Hook; it changes nothing.
func (commandHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// ProcessHook implements redis.Hook.
func (h commandHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return h(next) }

// syncerHook runs scripts without the cancellation of their context. asynq runs
// a script as EVALSHA and, where Redis does not know it, as EVAL.
func syncerHook(next redis.ProcessHook) redis.ProcessHook {
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

// serverErrors are the beginnings of the errors of a Redis that answers but cannot
// serve, or not us: somebody may be about to change the password.
var serverErrors = []string{
	"OOM ", "READONLY ", "LOADING ", "MASTERDOWN ", "CLUSTERDOWN ", "NOREPLICAS ", "MISCONF ", "BUSY ", "TRYAGAIN ",
	"NOAUTH ", "WRONGPASS ", "ERR Protocol error: unauthenticated ", // of a command with many arguments
	"ERR Script attempted to access a non local key", // in a cluster, while a slot moves
}

// IsUnavailable reports whether an error is about the connection to Redis, about the
// time for the call, or about Redis as a whole. Then the same call may succeed later.
// Any other error is about the call or about what is stored, and would come again.
func IsUnavailable(err error) bool {
	if reply, ok := errors.AsType[redis.Error](err); ok {
		return isServerError(reply)
	}
	_, network := errors.AsType[net.Error](err)
	return network || slices.ContainsFunc([]error{
		io.EOF, io.ErrUnexpectedEOF, context.Canceled, context.DeadlineExceeded, redis.ErrPoolTimeout, redis.ErrPoolExhausted, redis.ErrClosed, ErrNodeSilent,
	}, func(target error) bool { return errors.Is(err, target) })
}

func isServerError(err error) bool {
	return err != nil && slices.ContainsFunc(serverErrors, func(prefix string) bool {
		// A script's error may be wrapped in the name of the script.
		return strings.HasPrefix(err.Error(), prefix) || strings.Contains(err.Error(), "-"+prefix)
	})
}
