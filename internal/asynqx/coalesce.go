package asynqx

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/groupcommit"
)

// CoalesceHook returns a go-redis hook for the Redis client of the asynq servers. Scripts
// that many goroutines run at the same time go to Redis together: while one round trip is
// under way, those that come meanwhile wait for the next. rdb is that client. The hook must
// be the last one that is added, so that the others see single commands.
//
// A script that was sent is waited for, even if its context ends: asynq's scripts must not be
// cut short. One whose deadline is over before it is sent is not sent.
func CoalesceHook(rdb redis.UniversalClient) redis.Hook {
	c := coalescer{rdb}
	group := groupcommit.New(mostTogether, c.roundTrip)
	var turn atomic.Uint64
	return commandHook(func(next redis.ProcessHook) redis.ProcessHook {
		return func(ctx context.Context, cmd redis.Cmder) error {
			if cmd.Name() != "evalsha" {
				return next(ctx, cmd)
			}
			s := sending{cmd: cmd}
			s.deadline, _ = ctx.Deadline()
			_, _ = group.Do(context.WithoutCancel(ctx), turn.Add(1)%mostFlying, s)
			return cmd.Err()
		}
	})
}

// coalescer sends scripts.
type coalescer struct{ rdb redis.UniversalClient }

// sending is a script on its way.
type sending struct {
	cmd      redis.Cmder
	deadline time.Time // zero for none
}

const (
	// mostFlying is how many round trips are under way at most. With fewer, scripts wait;
	// with more, fewer of them go together.
	mostFlying = 2
	// mostTogether bounds how many scripts go together.
	mostTogether = 200
	// sendTimeout bounds a round trip of scripts without a deadline.
	sendTimeout = 30 * time.Second
)

// roundTrip sends scripts. Each command has its own error, so it returns none.
func (c coalescer) roundTrip(ctx context.Context, _ uint64, batch []sending) ([]struct{}, error) {
	now := time.Now()
	until := now.Add(sendTimeout)
	p := c.rdb.Pipeline()
	for _, s := range batch {
		switch {
		case s.deadline.IsZero():
		case !s.deadline.After(now):
			s.cmd.SetErr(context.DeadlineExceeded)
			continue
		case s.deadline.Before(until):
			until = s.deadline
		}
		_ = p.Process(ctx, s.cmd) // it only collects
	}
	if p.Len() > 0 {
		ctx, cancel := context.WithDeadline(ctx, until)
		defer cancel()
		_, _ = p.Exec(ctx)
	}
	return nil, nil
}
