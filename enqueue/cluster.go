package enqueue

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
)

// clusterWriter is the client of a Redis Cluster with which orders are stored.
type clusterWriter struct{ *redis.ClusterClient }

// listTimeout bounds how long an order waits for its queue to be listed.
const listTimeout = time.Second

// SAdd implements redis.UniversalClient. Before the first order of a queue the queue is added
// to asynq's list of queues. That list may be on another master than the queue. If that one
// does not answer, the order is stored all the same: workers do not read the list, and they
// add to it what is missing.
func (c clusterWriter) SAdd(ctx context.Context, key string, members ...any) *redis.IntCmd {
	if key != asynqx.AllQueuesKey {
		return c.ClusterClient.SAdd(ctx, key, members...)
	}
	limited, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	cmd := c.ClusterClient.SAdd(limited, key, members...)
	if ctx.Err() == nil && asynqx.IsUnavailable(cmd.Err()) {
		cmd.SetErr(nil)
	}
	return cmd
}
