package enqueue

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
)

// lanesKey counts the batches that were given a lane.
const lanesKey = "kooworker:batches:lanes"

// laneOfBatch returns the lane of a new batch: the one in which the fewest tasks wait, so
// that it waits for no other batch while there is a lane for each. Batches that
// are made at the same time, before they have any tasks, take turns. A lane whose node of a
// cluster does not answer gets no batch. An urgent batch has no choice.
func (c *Client) laneOfBatch(ctx context.Context, wanted tasks.Lane) (tasks.Lane, error) {
	if wanted == tasks.LaneUrgent {
		return wanted, nil
	}
	lanes := tasks.BatchLanes()
	waiting := make([][]*redis.IntCmd, len(lanes))
	var turn *redis.IntCmd
	cmds, err := c.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		turn = p.Incr(ctx, lanesKey)
		for i, l := range lanes {
			for _, queue := range tasks.QueuesIn(l) {
				waiting[i] = append(waiting[i], p.LLen(ctx, asynqx.PendingKey(queue)))
			}
		}
		return nil
	})
	asynqx.EachReply(cmds, err)
	best, fewest := -1, int64(0)
	for i := range lanes {
		at := int(turn.Val()+int64(i)) % len(lanes)
		n, failed := int64(0), false
		for _, cmd := range waiting[at] {
			n += cmd.Val()
			failed = failed || cmd.Err() != nil
		}
		if !failed && (best < 0 || n < fewest) {
			best, fewest = at, n
		}
	}
	if best < 0 {
		return "", fmt.Errorf("look which lane is free: %w", err)
	}
	return lanes[best], nil
}
