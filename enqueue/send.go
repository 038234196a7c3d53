package enqueue

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/asynqx"
)

// sent is what became of one script.
type sent struct {
	stored bool // else another task has its ID
	err    error
}

// send runs scripts in one exchange. After them it writes a token of the fence,
// if there is one: the token later shows whether Redis still has what was stored
// before it. It also registers the queues each time, in case Redis was emptied.
//
// An error of the exchange as a whole is the error of every script, and leaves
// open which of them have run.
func (w *chunkWriter) send(ctx context.Context, scripts []asynqx.Script, queues []any, fence *batch.Fence) (out []sent, token string, err error) {
	var wait *redis.Cmd
	var written *redis.StatusCmd
	cmds := make([]*redis.Cmd, len(scripts))
	_, err = w.client.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.SAdd(ctx, asynqx.AllQueuesKey, queues...)
		for i, script := range scripts {
			cmds[i] = script.EvalSha(ctx, p)
		}
		if fence != nil {
			token, written = fence.Write(ctx, p)
		}
		if w.client.replicas != nil {
			wait = w.client.replicas.wait(ctx, p)
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
			waitErr = w.client.replicas.checkAcks(got)
		}
		for i := range out {
			out[i].err = errors.Join(out[i].err, waitErr)
		}
	}
	return out, token, nil
}
