package recovery

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/asynqmsg"
)

// chunk is how many tasks one script handles at most. Each costs a search of
// the active list, which is as long as the fleet is wide.
const chunk = 50

// item is an ID as it was seen, and what was known of its task then.
type item struct {
	id    string
	place place
	score float64

	raw     *string // asynq's message; nil where there is none
	state   string
	crashes int
	msg     asynqmsg.Message
	err     error // why msg cannot be read
}

func (it item) scoreArg() string { return strconv.FormatFloat(it.score, 'f', -1, 64) }

func (it item) task(q queue) Task {
	t := Task{
		Queue: q.name, ID: it.id, Kind: tasks.Kind(it.msg.Kind), Payload: it.msg.Payload, Headers: it.msg.Headers,
		Retries: int(it.msg.Retried), Crashes: it.crashes, Reason: reasonOf(it.msg.ErrorMsg), LastError: it.msg.ErrorMsg,
	}
	if it.msg.LastFailedAt > 0 {
		t.LastFailedAt = time.Unix(it.msg.LastFailedAt, 0)
	}
	return t
}

// read looks at the tasks of some IDs. It is not atomic with anything: the
// scripts that act check what matters.
func (r *Repairer) read(ctx context.Context, q queue, where place, seen []redis.Z) ([]item, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	out, cmds := make([]item, len(seen)), make([]*redis.SliceCmd, len(seen))
	// The error of the whole is that of one command, and may be one that only
	// concerns its key.
	_, _ = r.cfg.Redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, z := range seen {
			id, _ := z.Member.(string)
			out[i] = item{id: id, place: where, score: z.Score}
			cmds[i] = p.HMGet(ctx, q.tasks+id, hashMsg, hashState, hashCrashes)
		}
		return nil
	})
	for i, cmd := range cmds {
		fields, err := cmd.Result()
		if redis.HasErrorPrefix(err, "WRONGTYPE") {
			continue // a key that is no hash holds no task
		}
		if err != nil {
			return nil, fmt.Errorf("read task %s: %w", out[i].id, err)
		}
		out[i] = q.describe(out[i], fields)
	}
	return out, nil
}

// describe adds to an item what its task's hash says.
func (q queue) describe(it item, fields []any) item {
	if crashes, ok := fields[2].(string); ok {
		it.crashes, _ = strconv.Atoi(crashes)
	}
	it.state, _ = fields[1].(string)
	raw, ok := fields[0].(string)
	if !ok {
		return it
	}
	it.raw = &raw
	if it.msg, it.err = asynqmsg.Parse([]byte(raw)); it.err != nil {
		return it
	}
	// Such a message decodes, but asynq would settle another task than the one
	// it ran. An empty message is of that sort.
	if it.msg.ID != it.id || it.msg.Queue != q.name {
		it.err = fmt.Errorf("the message is of task %q of queue %q", it.msg.ID, it.msg.Queue)
	}
	return it
}
