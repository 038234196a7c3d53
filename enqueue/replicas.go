package enqueue

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
)

// NotReplicatedError means that Redis has stored the task, but that too few
// replicas have acknowledged it in time. A failover at this moment might lose the
// task. Enqueue it again to wait once more: if Redis still has it, it is a
// duplicate, and the call waits for the replicas all the same.
type NotReplicatedError struct {
	// Want is the number of replicas that must acknowledge, and Got the number
	// that have.
	Want, Got int
	// Within is how long the call has waited for them.
	Within time.Duration
}

// Error implements error.
func (e *NotReplicatedError) Error() string {
	return fmt.Sprintf("stored, but only %d of %d replicas have acknowledged it within %s", e.Got, e.Want, e.Within)
}

// Hint says what to do about it.
func (e *NotReplicatedError) Hint() string {
	return "check INFO replication on the primary; run the same command again to wait once more"
}

// replicaWaiter is a Redis client that waits until replicas have acknowledged
// what a script has written. The command WAIT counts only the writes of its own
// connection, so it is sent right behind the script, on the same connection.
type replicaWaiter struct {
	redis.UniversalClient
	want    int
	timeout time.Duration
}

// replicaAcks carries the number of acknowledgements through asynq's client, as a
// value of the context. An error would not do: asynq turns errors into text.
type replicaAcks struct{ count int }

type replicaAcksKey struct{}

// asynq runs its scripts with Eval and EvalSha.

// Eval implements redis.UniversalClient.
func (r replicaWaiter) Eval(ctx context.Context, script string, keys []string, args ...any) *redis.Cmd {
	return r.withWait(ctx, func(p redis.Pipeliner) *redis.Cmd { return p.Eval(ctx, script, keys, args...) })
}

// EvalSha implements redis.UniversalClient.
func (r replicaWaiter) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	return r.withWait(ctx, func(p redis.Pipeliner) *redis.Cmd { return p.EvalSha(ctx, sha, keys, args...) })
}

// withWait sends a command, and WAIT behind it.
func (r replicaWaiter) withWait(ctx context.Context, command func(redis.Pipeliner) *redis.Cmd) *redis.Cmd {
	var cmd *redis.Cmd
	var wait *redis.Cmd
	asynqx.EachReply(r.Pipelined(ctx, func(p redis.Pipeliner) error {
		cmd, wait = command(p), r.addWait(ctx, p)
		return nil
	}))
	if acks, ok := ctx.Value(replicaAcksKey{}).(*replicaAcks); ok {
		acks.count, _ = wait.Int() // 0 if WAIT failed
	}
	return cmd
}

// barrierKey is written only so that WAIT has a write to wait for.
const barrierKey = "kooworker:barrier"

// barrier waits for replicas to have what other clients have written before, for
// instance a duplicate. It writes barrierKey and waits for that: replicas apply
// writes in order.
func (r replicaWaiter) barrier(ctx context.Context) error {
	var wait *redis.Cmd
	_, err := r.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.Set(ctx, barrierKey, "", time.Minute)
		wait = r.addWait(ctx, p)
		return nil
	})
	if err != nil {
		return fmt.Errorf("wait for the replicas: %w", err)
	}
	got, _ := wait.Int() // WAIT has not failed
	return r.checkAcks(got)
}

func (r replicaWaiter) addWait(ctx context.Context, p redis.Pipeliner) *redis.Cmd {
	return p.Do(ctx, "WAIT", r.want, r.timeout.Milliseconds())
}

func (r replicaWaiter) checkAcks(got int) error {
	if got < r.want {
		return &NotReplicatedError{Want: r.want, Got: got, Within: r.timeout}
	}
	return nil
}
