package asynqx

import (
	"context"
	"crypto/sha1" //nolint:gosec // Redis names scripts by it
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/cancelable"
)

// ScriptCapture captures the script that asynq would run to enqueue a task, so that
// the scripts of hundreds of tasks can be sent in one pipeline. It does not depend on
// what asynq writes for a task. It is not safe for concurrent use.
type ScriptCapture struct {
	client *asynq.Client
	rec    *recorder
}

// NewScriptCapture returns a ScriptCapture. Capture sends nothing to Redis; Load
// does.
func NewScriptCapture(rdb redis.UniversalClient) *ScriptCapture {
	rec := &recorder{UniversalClient: rdb, sources: make(map[string]string), bundles: make(map[string]string)}
	return &ScriptCapture{client: asynq.NewClientFromRedisClient(rec), rec: rec}
}

// Script is one call of one of asynq's scripts. It returns 1 if it has stored
// the task, and 0 if another task has the same ID.
type Script struct {
	sha  string
	keys []string
	args []any
}

// farAhead is a time that this machine's clock has not reached, however wrong it is.
const farAhead = 200 * 365 * 24 * time.Hour

// CaptureDue is Capture for a task that is due at a given time. asynq compares that
// time with this machine's clock, which may be wrong, and enqueues at once what is due
// by then. CaptureDue does not.
func (c *ScriptCapture) CaptureDue(ctx context.Context, t *asynq.Task, due time.Time, opts ...asynq.Option) (Script, error) {
	s, err := c.Capture(ctx, t, append(slices.Clone(opts), asynq.ProcessIn(farAhead))...)
	if err != nil {
		return s, err
	}
	const dueArg = 1 // the message, when it is due in Unix seconds, the ID
	if _, ok := s.args[dueArg].(int64); !ok {
		return s, fmt.Errorf("this asynq schedules with %v; want the due time second", s.args)
	}
	s.args = slices.Clone(s.args)
	s.args[dueArg] = due.Unix()
	return s, nil
}

// Run runs the call on its own. asynq's client also names the queue in AllQueuesKey;
// the caller must do that. If Redis does not know the script, IsNoScript recognizes
// its error.
func (s Script) Run(ctx context.Context, rdb redis.Scripter) *redis.Cmd {
	return rdb.EvalSha(ctx, s.sha, s.keys, s.args...)
}

// EvalSha adds the call to a pipeline. If Redis does not know the script, IsNoScript
// recognizes its error.
func (s Script) EvalSha(ctx context.Context, p redis.Pipeliner) *redis.Cmd {
	return p.EvalSha(ctx, s.sha, s.keys, s.args...)
}

// Capture returns the script that asynq would run to enqueue a task. A client of
// asynq also adds the queue's name to AllQueuesKey, once; here the caller must do
// that.
func (c *ScriptCapture) Capture(ctx context.Context, t *asynq.Task, opts ...asynq.Option) (Script, error) {
	_, err := c.client.EnqueueContext(ctx, t, opts...)
	return c.rec.last, err
}

// Load makes Redis know the scripts that were captured: after a start, a
// failover or a flush it does not. It ends with ctx.
func (c *ScriptCapture) Load(ctx context.Context) error {
	rdb, sources := c.rec.UniversalClient, slices.Collect(maps.Values(c.rec.sources))
	_, err := cancelable.Call(ctx, func() (struct{}, error) {
		for _, source := range sources {
			if err := rdb.ScriptLoad(ctx, source).Err(); err != nil {
				return struct{}{}, fmt.Errorf("load asynq's scripts: %w", err)
			}
		}
		return struct{}{}, nil
	})
	return err
}

// IsNoScript reports whether Redis does not know the script that was called.
func IsNoScript(err error) bool { return redis.HasErrorPrefix(err, "NOSCRIPT") }

// recorder stands in for Redis while asynq enqueues. It asks for a script that it
// does not know in full, as Redis would.
type recorder struct {
	redis.UniversalClient
	sources map[string]string // of asynq's scripts and of bundles, by their SHA-1
	bundles map[string]string // the SHA-1 of the bundle of a script, by the script's
	last    Script
}

// noScriptError is what Redis says of a script that it does not know.
type noScriptError struct{}

var _ redis.Error = noScriptError{}

func (noScriptError) Error() string { return "NOSCRIPT No matching script." }

// RedisError implements redis.Error.
func (noScriptError) RedisError() {}

// EvalSha implements redis.UniversalClient.
func (r *recorder) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	cmd := redis.NewCmd(ctx)
	if _, known := r.sources[sha]; !known {
		cmd.SetErr(noScriptError{})
		return cmd
	}
	r.last = Script{sha, keys, args}
	cmd.SetVal(int64(1))
	return cmd
}

// Eval implements redis.UniversalClient.
func (r *recorder) Eval(ctx context.Context, source string, keys []string, args ...any) *redis.Cmd {
	sha := sha1Of(source)
	r.sources[sha] = source
	return r.EvalSha(ctx, sha, keys, args...)
}

// sha1Of returns the name that Redis gives a script.
func sha1Of(source string) string {
	sum := sha1.Sum([]byte(source)) //nolint:gosec // Redis names scripts by it
	return hex.EncodeToString(sum[:])
}

// SAdd implements redis.UniversalClient. asynq adds the queue's name with it.
func (r *recorder) SAdd(ctx context.Context, _ string, _ ...any) *redis.IntCmd {
	return redis.NewIntCmd(ctx)
}
