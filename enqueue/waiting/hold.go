package waiting

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
)

// heldMark is the fraction of a second that tells what Hold has put off from what was
// scheduled for that time. No claim has it.
const heldMark = 1.0 / (2 * marks)

// Hold moves the tasks that match from pending to scheduled, to be due then. asynq makes them
// pending at that time, and Release does before. Tasks that are scheduled or in retry stay
// there; workers hold them when they come. It returns how many it has moved.
func (s *Store) Hold(ctx context.Context, q Query, due time.Time, progress func(moved int64)) (moved int64, err error) {
	score := func() float64 { return float64(due.Unix()) + heldMark }
	for _, queue := range q.Queues {
		err := s.turn(ctx, q, queue, score, func(_ []Task, ids []string, _ float64) {
			moved += int64(len(ids))
			progress(moved)
		})
		if err != nil {
			return moved, fmt.Errorf("queue %s: %w", queue, err)
		}
	}
	return moved, nil
}

// releaseCmd makes tasks pending.
//
// KEYS[1] -> the sorted set where they are
// KEYS[2] -> asynq:{<queue>}:pending
// --
// ARGV[1] -> the time in Unix ns, which asynq keeps of pending tasks
// ARGV[2] -> prefix of the tasks' keys
// ARGV[3..] -> IDs
//
// Returns how many were still there.
var releaseCmd = redis.NewScript(`
local n = 0
for i = 3, #ARGV do
	if redis.call("ZREM", KEYS[1], ARGV[i]) == 1 then
		redis.call("LPUSH", KEYS[2], ARGV[i])
		redis.call("HSET", ARGV[2] .. ARGV[i], "state", "pending", "pending_since", ARGV[1])
		n = n + 1
	end
end
return n
`)

// Release makes the tasks that match pending if Hold, or a worker that came to them, has put
// them off to this time. It returns how many.
//
// A retry that is due at the same time as the hold ends is released, too: it runs too
// early, and no attempt is lost by that.
func (s *Store) Release(ctx context.Context, q Query, due time.Time, progress func(released int64)) (released int64, err error) {
	end := float64(due.Unix())
	const rounding = 2 // seconds; a worker rounds the time of a retry up
	for _, queue := range q.Queues {
		held := map[string]func(score float64) bool{
			asynqx.ScheduledKey(queue): func(score float64) bool { return score == end+heldMark },
			asynqx.RetryKey(queue):     func(score float64) bool { return score >= end && score <= end+rounding },
		}
		for key, isHeld := range held {
			n, err := s.releaseSet(ctx, q, queue, key, isHeld, func(n int64) { progress(released + n) })
			released += n
			if err != nil {
				return released, fmt.Errorf("queue %s: %w", queue, err)
			}
		}
	}
	return released, nil
}

func (s *Store) releaseSet(ctx context.Context, q Query, queue, key string, isHeld func(score float64) bool, progress func(released int64)) (released int64, err error) {
	for ids, err := range s.setPages(ctx, key, isHeld) {
		if err != nil {
			return released, err
		}
		found, err := s.read(ctx, q, queue, ids)
		if err != nil {
			return released, err
		}
		args := []any{time.Now().UnixNano(), asynqx.TaskKeyPrefix(queue)}
		for _, t := range slices.Backward(found) {
			args = append(args, t.ID)
		}
		if len(found) == 0 {
			continue
		}
		n, err := releaseCmd.Run(ctx, s.rdb, []string{key, asynqx.PendingKey(queue)}, args...).Int64()
		if err != nil {
			return released, fmt.Errorf("make tasks pending: %w", err)
		}
		released += n
		progress(released)
	}
	return released, nil
}
