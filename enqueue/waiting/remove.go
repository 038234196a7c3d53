package waiting

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/kooworker/kooworker/internal/asynqx"
)

// Remove takes the tasks that match out of their queues, once through all of them. It calls
// record with each page before it deletes that page, for some pages at a time. It returns
// how many it has deleted. The package comment says what happens if record fails, or the
// process dies.
func (s *Store) Remove(ctx context.Context, q Query, record func(ctx context.Context, page []Task) error) (removed int64, err error) {
	var deleted atomic.Int64
	finishing, ctx := errgroup.WithContext(ctx)
	finishing.SetLimit(finishers)
	for _, queue := range q.Queues {
		r := remover{s, q, queue, record, newMark(), finishing, &deleted}
		if err = errors.Join(r.sets(ctx), r.pending(ctx)); err != nil {
			err = fmt.Errorf("queue %s: %w", queue, err)
			break
		}
	}
	if failed := finishing.Wait(); failed != nil { // then ctx has ended, and err may say only that
		err = failed
	}
	return deleted.Load(), err
}

// remover removes tasks of one queue.
type remover struct {
	*Store

	query     Query
	queue     string
	record    func(ctx context.Context, page []Task) error
	mark      claimMark
	finishing *errgroup.Group
	deleted   *atomic.Int64
}

// claimSortedCmd claims tasks in a sorted set.
//
// KEYS[1] -> the set
// KEYS[2] -> asynq:{<queue>}:scheduled
// --
// ARGV[1] -> when the claim ends, in Unix seconds
// ARGV[2] -> prefix of the tasks' keys
// ARGV[3..] -> IDs
//
// Returns the IDs of those that were still there.
var claimSortedCmd = redis.NewScript(`
local claimed = {}
for i = 3, #ARGV do
	if redis.call("ZREM", KEYS[1], ARGV[i]) == 1 then
		redis.call("ZADD", KEYS[2], ARGV[1], ARGV[i])
		redis.call("HSET", ARGV[2] .. ARGV[i], "state", "scheduled")
		claimed[#claimed + 1] = ARGV[i]
	end
end
return claimed
`)

func (r remover) sets(ctx context.Context) error {
	for _, key := range sets(r.queue) {
		for ids, err := range r.setPages(ctx, key, r.isNotMine) {
			if err != nil {
				return err
			}
			found, err := r.read(ctx, r.query, r.queue, ids)
			if err != nil {
				return err
			}
			if len(found) == 0 {
				continue
			}
			until := r.mark.end()
			args := []any{until, asynqx.TaskKeyPrefix(r.queue)}
			for _, t := range found {
				args = append(args, t.ID)
			}
			claimed, err := claimSortedCmd.Run(ctx, r.rdb, []string{key, asynqx.ScheduledKey(r.queue)}, args...).StringSlice()
			if err != nil {
				return fmt.Errorf("claim tasks: %w", err)
			}
			r.finishing.Go(func() error { return r.finish(ctx, found, claimed, until) })
		}
	}
	return nil
}

// moveListedCmd moves tasks at the end of a list to scheduled, and the others there to the
// list's beginning. It stops at a task that the caller has not seen.
//
// KEYS[1] -> asynq:{<queue>}:pending
// KEYS[2] -> asynq:{<queue>}:scheduled
// --
// ARGV[1] -> when they are due, in Unix seconds
// ARGV[2] -> prefix of the tasks' keys
// ARGV[3] -> for each ID that follows: 1 if it is to be moved, else 0
// ARGV[4..] -> IDs
//
// Returns how many tasks it has come to, and then the IDs that it has moved. The
// list is written last, and by commands that cannot fail.
var moveListedCmd = redis.NewScript(`
local seen = {}
for i = 4, #ARGV do
	seen[ARGV[i]] = string.sub(ARGV[3], i - 3, i - 3)
end
local tail = redis.call("LRANGE", KEYS[1], -(#ARGV - 3), -1)
local out, stay = {0}, {}
for i = #tail, 1, -1 do
	local id = tail[i]
	if not seen[id] then break end
	out[1] = out[1] + 1
	if seen[id] == "1" then
		redis.call("ZADD", KEYS[2], ARGV[1], id)
		redis.call("HSET", ARGV[2] .. id, "state", "scheduled")
		redis.call("HDEL", ARGV[2] .. id, "pending_since")
		out[#out + 1] = id
	else
		stay[#stay + 1] = id
	end
end
if out[1] > 0 then
	if #stay > 0 then
		redis.call("LPUSH", KEYS[1], unpack(stay))
	end
	redis.call("LTRIM", KEYS[1], 0, -(out[1] + 1))
end
return out
`)

// pending removes pending tasks.
func (r remover) pending(ctx context.Context) error {
	return r.turn(ctx, r.query, r.queue, r.mark.end, func(found []Task, claimed []string, until float64) {
		r.finishing.Go(func() error { return r.finish(ctx, found, claimed, until) })
	})
}

// turn turns the list of pending tasks once. It moves those that match to scheduled, to be
// due at that time, and passes them on.
func (s *Store) turn(ctx context.Context, q Query, queue string, due func() float64, moved func(found []Task, ids []string, due float64)) error {
	key := asynqx.PendingKey(queue)
	left, err := s.rdb.LLen(ctx, key).Result()
	if err != nil {
		return fmt.Errorf("list the tasks: %w", err)
	}
	for left > 0 {
		ids, err := s.rdb.LRange(ctx, key, -min(left, pageSize), -1).Result()
		if err != nil || len(ids) == 0 {
			return err
		}
		found, err := s.read(ctx, q, queue, ids)
		if err != nil {
			return err
		}
		wanted := make(map[string]bool, len(found))
		for _, t := range found {
			wanted[t.ID] = true
		}
		until := due()
		flags := make([]byte, len(ids))
		args := []any{until, asynqx.TaskKeyPrefix(queue), flags}
		for i, id := range ids {
			flags[i] = '0'
			if wanted[id] {
				flags[i] = '1'
			}
			args = append(args, id)
		}
		reply, err := moveListedCmd.Run(ctx, s.rdb, []string{key, asynqx.ScheduledKey(queue)}, args...).Slice()
		if err != nil {
			return fmt.Errorf("take tasks out of the list: %w", err)
		}
		n, _ := reply[0].(int64)
		left -= max(n, 1) // workers may have taken all of them
		taken := make([]string, 0, len(reply)-1)
		for _, id := range reply[1:] {
			text, _ := id.(string)
			taken = append(taken, text)
		}
		if len(taken) > 0 {
			moved(found, taken, until)
		}
	}
	return nil
}

// claimFor is how long a task that is being removed waits for that.
const claimFor = 10 * time.Minute

// claimMark tells the claims of one Remove from those of others, and from what asynq
// writes: it is the fraction of a second of the time when they end, in 1/marks. asynq
// writes whole seconds. A Remove would otherwise find its own claims among the tasks that
// are scheduled.
type claimMark int

const marks = 1024 // a float64 holds these fractions exactly

func newMark() claimMark { return claimMark(1 + rand.IntN(marks-1)) } //nolint:gosec // not a secret

// end is when a claim that is made now ends, in Unix seconds.
func (m claimMark) end() float64 {
	return float64(time.Now().Add(claimFor).Unix()) + float64(m)/marks
}

// isNotMine reports whether the score is not that of a claim of this Remove.
func (r remover) isNotMine(score float64) bool { return markOf(score) != r.mark }

// markOf returns the mark of the claim that ends then, 0 if that is not a claim.
func markOf(end float64) claimMark {
	_, fraction := math.Modf(end)
	return claimMark(fraction * marks)
}

// deleteCmd deletes tasks that are still claimed.
//
// KEYS[1] -> asynq:{<queue>}:scheduled
// --
// ARGV[1] -> when the claim ends, in Unix seconds
// ARGV[2] -> prefix of the tasks' keys
// ARGV[3..] -> IDs
//
// Returns how many it has deleted.
var deleteCmd = redis.NewScript(`
local n = 0
for i = 3, #ARGV do
	if tonumber(redis.call("ZSCORE", KEYS[1], ARGV[i]) or 0) == tonumber(ARGV[1]) then
		redis.call("ZREM", KEYS[1], ARGV[i])
		redis.call("DEL", ARGV[2] .. ARGV[i])
		n = n + 1
	end
end
return n
`)

// finish records what becomes of tasks that are claimed, and deletes them.
func (r remover) finish(ctx context.Context, found []Task, claimed []string, until float64) error {
	isClaimed := make(map[string]bool, len(claimed))
	for _, id := range claimed {
		isClaimed[id] = true
	}
	page := slices.DeleteFunc(found, func(t Task) bool { return !isClaimed[t.ID] })
	if len(page) == 0 {
		return nil
	}
	if err := r.record(ctx, page); err != nil {
		return err
	}
	args := []any{until, asynqx.TaskKeyPrefix(r.queue)}
	for _, t := range page {
		args = append(args, t.ID)
	}
	n, err := deleteCmd.Run(ctx, r.rdb, []string{asynqx.ScheduledKey(r.queue)}, args...).Int64()
	r.deleted.Add(n)
	if err != nil {
		return fmt.Errorf("delete tasks: %w", err)
	}
	return nil
}
