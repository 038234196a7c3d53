package enqueue

import (
	"context"
	"crypto/sha1" //nolint:gosec // Redis names scripts by it
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

// dictation lets asynq say what it would send for a task, and sends that for
// hundreds of tasks in one exchange. How asynq writes a task stays asynq's own
// business; that its scripts answer 1 for stored and 0 for a conflict is all
// that is known here. Not safe for concurrent use.
type dictation struct {
	client  *Client
	asynq   *asynq.Client
	rec     *recorder
	sources map[string]string // of asynq's scripts, by their SHA-1
}

func (c *Client) newDictation() *dictation {
	rec := &recorder{UniversalClient: c.rdb, sources: make(map[string]string)}
	return &dictation{client: c, asynq: asynq.NewClientFromRedisClient(rec), rec: rec, sources: rec.sources}
}

// script is one call of a script.
type script struct {
	sha  string
	keys []string
	args []any
}

// recorder stands in for Redis while asynq dictates. A script that it does not
// know it asks for in full, as Redis would.
type recorder struct {
	redis.UniversalClient
	sources map[string]string
	last    script
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
	r.last = script{sha, keys, args}
	cmd.SetVal(int64(1))
	return cmd
}

// Eval implements redis.UniversalClient.
func (r *recorder) Eval(ctx context.Context, source string, keys []string, args ...any) *redis.Cmd {
	sum := sha1.Sum([]byte(source)) //nolint:gosec // Redis names scripts by it
	sha := hex.EncodeToString(sum[:])
	r.sources[sha] = source
	return r.EvalSha(ctx, sha, keys, args...)
}

// SAdd implements redis.UniversalClient. asynq registers a queue once in a
// client's life; send does so each time, in case Redis was emptied.
func (r *recorder) SAdd(ctx context.Context, _ string, _ ...any) *redis.IntCmd {
	return redis.NewIntCmd(ctx)
}

// write returns what asynq would send.
func (d *dictation) write(ctx context.Context, t tasks.Task, id string, payload []byte, runAt time.Time) (script, error) {
	_, err := d.asynq.EnqueueContext(ctx, asynq.NewTask(string(t.Kind()), payload), taskOptions(t, id, runAt)...)
	return d.rec.last, err
}

// taskOptions are asynq's options of every task.
func taskOptions(t tasks.Task, id string, runAt time.Time) []asynq.Option {
	return []asynq.Option{
		asynq.TaskID(id), asynq.Queue(t.Queue()), asynq.ProcessAt(runAt),
		asynq.MaxRetry(tasks.MaxRetry), asynq.Timeout(tasks.Timeout),
	}
}

// sent is what became of one script.
type sent struct {
	stored bool // else its place is taken
	err    error
}

// send sends scripts in one exchange, and behind them a token of the proof, if
// there is one: without it nobody could say later that they are still there. An error of the exchange as a whole is
// every script's error; it leaves open which of them were carried out.
func (d *dictation) send(ctx context.Context, scripts []script, queues []any, proof *batch.Fence) (out []sent, token string, err error) {
	var wait *redis.Cmd
	var written *redis.StatusCmd
	cmds := make([]*redis.Cmd, len(scripts))
	_, err = d.client.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.SAdd(ctx, allQueues, queues...)
		for i, s := range scripts {
			cmds[i] = p.EvalSha(ctx, s.sha, s.keys, s.args...)
		}
		if proof != nil {
			token, written = proof.Write(ctx, p)
		}
		if d.client.replicas != nil {
			wait = d.client.replicas.wait(ctx, p)
		}
		return nil
	})
	if written != nil && written.Err() != nil {
		return nil, "", written.Err()
	}
	out = make([]sent, len(scripts))
	for i, cmd := range cmds {
		n, cmdErr := cmd.Int()
		out[i] = sent{stored: n == 1, err: cmdErr}
	}
	if wait != nil && err == nil {
		got, waitErr := wait.Int()
		if waitErr == nil {
			waitErr = d.client.replicas.checkAcks(got)
		}
		for i := range out {
			out[i].err = errors.Join(out[i].err, waitErr)
		}
	}
	return out, token, nil
}

// load makes Redis know asynq's scripts: after a start, a failover or a flush it
// does not.
func (d *dictation) load(ctx context.Context) error {
	for _, source := range d.sources {
		if err := d.client.rdb.ScriptLoad(ctx, source).Err(); err != nil {
			return fmt.Errorf("load asynq's scripts: %w", err)
		}
	}
	return nil
}

func isNoScript(err error) bool { return redis.HasErrorPrefix(err, "NOSCRIPT") }
