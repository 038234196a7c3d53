package recovery

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
)

// pendingPage is how many pending IDs one script reads, with their messages: less than a
// millisecond of Redis' time, and some more the further the page is from both ends of the list.
const pendingPage = 100

// pendingCmd reads a page of a pending list, with the messages. It is atomic, and so is every
// script that puts an ID there. So an ID without a message has none.
//
// KEYS[1] -> asynq:{<queue>}:pending
// --
// ARGV[1] -> the first index
// ARGV[2] -> the last one
// ARGV[3] -> the prefix of the tasks' keys, which have the list's hash tag
//
// Returns the IDs, and then for each the message; "" if it has none, or if its key is no hash.
var pendingCmd = redis.NewScript(`
local ids = redis.call("LRANGE", KEYS[1], ARGV[1], ARGV[2])
local messages = {}
for i, id in ipairs(ids) do
  local msg = redis.pcall("HGET", ARGV[3] .. id, "msg")
  messages[i] = type(msg) == "string" and msg or ""
end
return {ids, messages}
`)

// scanPending reads the pending lists, and finds the IDs whose task is missing or cannot be read.
func (x *examination) scanPending(ctx context.Context) error {
	var failed []error
	for _, q := range x.r.queues {
		if err := x.scanPendingOf(ctx, q); err != nil {
			failed = append(failed, fmt.Errorf("queue %s: %w", q.name, err))
		}
	}
	return errors.Join(failed...)
}

// scanPendingOf reads a list from the end where tasks arrive to the one where they are taken, as
// long as it is at the beginning. It counts from that second end: what arrives moves
// nothing, and what is taken moves the rest towards what is read next. So nothing is passed over,
// and some IDs are read twice.
func (x *examination) scanPendingOf(ctx context.Context, q queue) error {
	limited, cancel := context.WithTimeout(ctx, opTimeout)
	n, err := x.r.cfg.Redis.LLen(limited, asynqx.PendingKey(q.name)).Result()
	cancel()
	if err != nil || n == 0 {
		return err
	}
	before := make(map[string]bool) // the faults of the last page
	return x.eachPage(ctx, func(ctx context.Context, at uint64) (uint64, error) {
		first := int64(at) - n //nolint:gosec // G115: at is n at most
		items, read, err := x.r.pendingWithoutTask(ctx, q, first, min(first+pendingPage-1, -1))
		if err != nil {
			return 0, err
		}
		found := make(map[string]bool, len(items))
		for _, it := range items {
			if found[it.id] = true; !before[it.id] {
				x.addTo(faultKey{q.name, it.repair(), true}, 1, it.id)
			}
		}
		before = found
		if x.read += int64(read); x.onScan != nil {
			x.onScan(x.read)
		}
		if first+pendingPage > -1 {
			return 0, nil
		}
		return at + pendingPage, nil
	})
}

// pendingWithoutTask reads a page of a pending list. It returns the IDs without a message that
// can be read, each once, and how many IDs there are on the page.
func (r *Repairer) pendingWithoutTask(ctx context.Context, q queue, first, last int64) (items []item, read int, err error) {
	reply, err := r.run(ctx, pendingCmd, []string{asynqx.PendingKey(q.name)}, first, last, asynqx.TaskKeyPrefix(q.name)).Slice()
	if err == nil && len(reply) != 2 {
		err = errors.New("an answer that makes no sense")
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read the pending IDs: %w", err)
	}
	ids, _ := reply[0].([]any)
	messages, _ := reply[1].([]any)
	seen := make(map[string]bool)
	for i, id := range ids {
		it := item{}
		it.id, _ = id.(string)
		if raw, _ := messages[i].(string); raw != "" {
			it = q.withMessage(it, raw)
		}
		if (it.raw == nil || it.err != nil) && !seen[it.id] {
			seen[it.id] = true
			items = append(items, it)
		}
	}
	return items, len(ids), nil
}
