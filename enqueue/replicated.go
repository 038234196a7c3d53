package enqueue

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// NotReplicatedError means that Redis has stored the task, and that fewer
// replicas than were asked for have said in time that they have it too. A
// failover just now might lose it. Enqueue it again to wait once more: if it is
// still there it is a duplicate, and the wait is for it all the same.
type NotReplicatedError struct {
	Want, Got int
	Within    time.Duration
}

// Error implements error.
func (e *NotReplicatedError) Error() string {
	return fmt.Sprintf("stored, but %d of the %d replicas that were asked for have acknowledged it within %s", e.Got, e.Want, e.Within)
}

// Hint says what to do about it.
func (e *NotReplicatedError) Hint() string {
	return "look at INFO replication on the primary; the same command again waits once more"
}

// replicated is a Redis client that lets a script's writes be acknowledged by
// replicas. WAIT counts what its own connection has written, so it travels
// right behind the script, on the same connection.
type replicated struct {
	redis.UniversalClient
	want   int
	within time.Duration
}

// acknowledged is where a call learns how many replicas there were; asynq turns
// errors into text, so an error would not come through.
type acknowledged struct{ replicas int }

type acknowledgedKey struct{}

// Eval and EvalSha are how asynq runs its scripts.

// Eval implements redis.UniversalClient.
func (r replicated) Eval(ctx context.Context, script string, keys []string, args ...any) *redis.Cmd {
	return r.behind(ctx, func(p redis.Pipeliner) *redis.Cmd { return p.Eval(ctx, script, keys, args...) })
}

// EvalSha implements redis.UniversalClient.
func (r replicated) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	return r.behind(ctx, func(p redis.Pipeliner) *redis.Cmd { return p.EvalSha(ctx, sha, keys, args...) })
}

// behind sends a command and WAIT.
func (r replicated) behind(ctx context.Context, command func(redis.Pipeliner) *redis.Cmd) *redis.Cmd {
	var cmd *redis.Cmd
	var wait *redis.Cmd
	_, err := r.Pipelined(ctx, func(p redis.Pipeliner) error {
		cmd, wait = command(p), r.wait(ctx, p)
		return nil
	})
	if err != nil && cmd.Err() == nil && wait.Err() == nil {
		cmd.SetErr(err)
	}
	if ack, ok := ctx.Value(acknowledgedKey{}).(*acknowledged); ok {
		ack.replicas, _ = wait.Int() // 0 where it failed
	}
	return cmd
}

// barrierKey is written for the sake of the wait behind it.
const barrierKey = "kooworker:barrier"

// barrier waits for what others have written, a duplicate for instance: behind
// a write of its own, since replicas take writes in order.
func (r replicated) barrier(ctx context.Context) error {
	var wait *redis.Cmd
	_, err := r.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.Set(ctx, barrierKey, "", time.Minute)
		wait = r.wait(ctx, p)
		return nil
	})
	if err != nil {
		return fmt.Errorf("wait for the replicas: %w", err)
	}
	got, err := wait.Int()
	if err != nil {
		return fmt.Errorf("wait for the replicas: %w", err)
	}
	return r.enough(got)
}

func (r replicated) wait(ctx context.Context, p redis.Pipeliner) *redis.Cmd {
	return p.Do(ctx, "WAIT", r.want, r.within.Milliseconds())
}

func (r replicated) enough(got int) error {
	if got < r.want {
		return &NotReplicatedError{Want: r.want, Got: got, Within: r.within}
	}
	return nil
}
