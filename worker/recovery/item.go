package recovery

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
)

// chunk is how many tasks one script handles at most. Each task costs a search
// of the active list, which is as long as the number of tasks that run.
const chunk = 50

// item is an ID as it was seen, and what was known of its task then.
type item struct {
	id    string
	in    setIndex
	score float64 // in that set

	raw     *string // asynq's message; nil if there is none
	state   string
	alone   string // the process that called it as the only suspect
	crashes crashes
	msg     asynqx.Message
	err     error // why raw cannot be read

	// suspect and counted say what the crash of its worker means. crashes has the
	// crash if it counts, and its hash has neither yet.
	suspect, counted bool
	// died are the processes that had the task when they died, if anybody knows.
	died map[string]time.Time
}

// crashes are those in which a suspect was called alone, since it last survived.
type crashes struct {
	alone int
	calm  int // those of them in which no other worker died
}

// read reads the tasks of some IDs. It is not atomic with anything: the scripts
// that act check what matters.
func (r *Repairer) read(ctx context.Context, q queue, in setIndex, seen []redis.Z) ([]item, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	out, cmds := make([]item, len(seen)), make([]*redis.SliceCmd, len(seen))
	// The pipeline's error is that of one command, and may concern that
	// command's key only. So each command is asked for its own.
	asynqx.EachReply(r.cfg.Redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, z := range seen {
			id, _ := z.Member.(string)
			out[i] = item{id: id, in: in, score: z.Score}
			cmds[i] = p.HMGet(ctx, asynqx.TaskKey(q.name, id), asynqx.FieldMsg, asynqx.FieldState, hashAlone, hashCrashesAlone, hashCrashesCalm)
		}
		return nil
	}))
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
	number := func(field any) (n int) {
		text, _ := field.(string)
		n, _ = strconv.Atoi(text)
		return n
	}
	it.alone, _ = fields[2].(string)
	it.crashes = crashes{alone: number(fields[3]), calm: number(fields[4])}
	it.state, _ = fields[1].(string)
	raw, ok := fields[0].(string)
	if !ok {
		return it
	}
	return q.withMessage(it, raw)
}

// withMessage adds a message to an item.
func (q queue) withMessage(it item, raw string) item {
	it.raw = &raw
	if it.msg, it.err = asynqx.ParseMessage([]byte(raw)); it.err != nil {
		return it
	}
	// A message of another task can be decoded, but asynq would run this task and
	// then mark the other one as done. An empty message is such a one.
	if it.msg.ID != it.id || it.msg.Queue != q.name {
		it.err = fmt.Errorf("the message is of task %q of queue %q", it.msg.ID, it.msg.Queue)
	}
	return it
}
