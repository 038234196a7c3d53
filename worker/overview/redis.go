package overview

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/outage"
	"github.com/kooworker/kooworker/worker/redischeck"
)

// Redis is what Redis says of itself. Of a cluster it is one node that speaks; its problems
// are those of all primaries.
type Redis struct {
	Up      bool    `json:"up"`
	Seconds float64 `json:"latency_seconds"` // of a ping
	Version string  `json:"version,omitempty"`
	// UsedBytes is the memory in use, and MaxBytes maxmemory; 0: none.
	UsedBytes int64                `json:"used_bytes"`
	MaxBytes  int64                `json:"max_bytes"`
	Problems  []redischeck.Problem `json:"problems"`
	// Error says why Redis does not answer.
	Error string `json:"error,omitempty"`
	// Refused says why Redis refuses what workers write, though it answers: it is full, for
	// example, or a replica. Then workers cannot tell that they run.
	Refused string `json:"refused,omitempty"`

	refused error

	at time.Time
}

// readRedis pings Redis, and asks it what it is. That it does not tell is no error: its
// user may not be allowed to ask.
func readRedis(ctx context.Context, rdb redis.UniversalClient) (Redis, error) {
	if err := redischeck.Ping(ctx, rdb); err != nil { // it may have to connect first
		return Redis{Error: err.Error()}, fmt.Errorf("Redis does not answer: %w", err)
	}
	began := time.Now()
	at, err := rdb.Time(ctx).Result()
	if err != nil {
		return Redis{Error: err.Error()}, fmt.Errorf("Redis does not tell its time: %w", err)
	}
	r := Redis{Up: true, Seconds: time.Since(began).Seconds(), at: at.UTC()}
	if r.refused = outage.Ask(ctx, rdb, outage.Keys(tasks.Queues())); r.refused != nil {
		r.Refused = r.refused.Error()
	}
	r.Problems, _ = redischeck.Find(ctx, rdb)
	var memory, server *redis.StringCmd
	asynqx.EachReply(rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		memory, server = p.Info(ctx, "memory"), p.Info(ctx, "server")
		return nil
	}))
	inMemory := redischeck.ParseInfo(memory.Val())
	r.UsedBytes, _ = strconv.ParseInt(inMemory["used_memory"], 10, 64)
	r.MaxBytes, _ = strconv.ParseInt(inMemory["maxmemory"], 10, 64)
	r.Version = redischeck.ParseInfo(server.Val())["redis_version"]
	return r, nil
}
