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
// under way, those that come meanwhile wait for the next. Each master of a cluster has round
// trips of its own, so that none waits for another. rdb is that client. The hook must be the
// last one that is added, so that the others see single commands.
//
// A script that was sent is waited for, even if its context ends: asynq's scripts must not be
// cut short. One whose deadline is over before it is sent is not sent.
func CoalesceHook(rdb redis.UniversalClient) redis.Hook {
	_, isCluster := rdb.(*redis.ClusterClient)
	c := coalescer{rdb, isCluster}
	group := groupcommit.New(mostTogether, c.roundTrip)
	var turn atomic.Uint64
	return commandHook(func(next redis.ProcessHook) redis.ProcessHook {
		return func(ctx context.Context, cmd redis.Cmder) error {
			if cmd.Name() != "evalsha" {
				return next(ctx, cmd)
			}
			s := sending{cmd: cmd}
			s.deadline, _ = ctx.Deadline()
			to := route{MasterOf(ctx, rdb, firstKey(cmd)), turn.Add(1) % mostFlying}
			_, _ = group.Do(context.WithoutCancel(ctx), to, s)
			return cmd.Err()
		}
	})
}

// coalescer sends scripts.
type coalescer struct {
	rdb       redis.UniversalClient
	isCluster bool
}

// route is one of the round trips that are under way.
type route struct {
	master string
	turn   uint64
}

// firstKey returns the first key of a script, which says to which master it goes.
func firstKey(cmd redis.Cmder) string {
	const first = 3 // after the command, the script, and the number of keys
	if args := cmd.Args(); len(args) > first {
		key, _ := args[first].(string)
		return key
	}
	return ""
}

// sending is a script on its way.
type sending struct {
	cmd      redis.Cmder
	deadline time.Time // zero for none
}

const (
	// mostFlying is how many round trips to a master are under way at most. With fewer,
	// scripts wait; with more, fewer of them go together.
	mostFlying = 2
	// mostTogether bounds how many scripts go together.
	mostTogether = 200
	// sendTimeout bounds a round trip of scripts without a deadline.
	sendTimeout = 30 * time.Second
)

// roundTrip sends scripts. Each command has its own error, so it returns none.
func (c coalescer) roundTrip(ctx context.Context, _ route, batch []sending) ([]struct{}, error) {
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
		SendOnce(ctx, p, c.isCluster, s.cmd)
	}
	if p.Len() > 0 {
		ctx, cancel := context.WithDeadline(ctx, until)
		defer cancel()
		EachReply(p.Exec(ctx))
	}
	return nil, nil
}
