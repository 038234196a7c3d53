package recovery

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/internal/asynqx"
)

const (
	// pruneEvery is the time between two looks at asynq's lists of processes.
	pruneEvery = time.Minute
	// deadKept is how long a server or a scheduler stays on asynq's lists after its
	// last heartbeat has expired. A repairer that has just started knows dead servers
	// from the list only. It needs them until the leases of their tasks have ended and
	// the tasks are put back, which takes a minute; far longer only if the Parker fails.
	deadKept = time.Hour
	// historyKept is how long the history of a schedule is kept after its last event.
	historyKept = 30 * 24 * time.Hour
)

// prune takes those off asynq's lists of servers, of their workers and of schedulers
// that have been dead for long. asynq does that only when somebody opens asynqmon's
// page. The lists are by the clocks of the servers. If the clock of one that lives is
// so wrong that it is taken off, its next heartbeat puts it back.
func (r *Repairer) prune(ctx context.Context) error {
	if time.Since(r.pruned) < pruneEvery {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	before := "(" + strconv.FormatInt(r.uptime.last.Add(-deadKept).Unix(), 10)
	_, err := r.cfg.Redis.Pipelined(limited, func(p redis.Pipeliner) error {
		for _, list := range []string{asynqx.AllServersKey, asynqx.AllWorkersKey, asynqx.AllSchedulersKey} {
			p.ZRemRangeByScore(limited, list, "-inf", before)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("take dead servers off asynq's lists: %w", err)
	}
	r.pruned = time.Now()
	return nil
}

// dropHistoryCmd deletes a schedule's history unless something was enqueued lately.
//
// KEYS[1] -> asynq:scheduler_history:<entry>
// --
// ARGV[1] -> for how many seconds it is kept after its last event
//
// Returns 1 if it was deleted, else 0.
var dropHistoryCmd = redis.NewScript(`
local last = redis.call("ZREVRANGE", KEYS[1], 0, 0, "WITHSCORES")[2]
if not last or tonumber(last) > redis.call("TIME")[1] - ARGV[1] then return 0 end
return redis.call("DEL", KEYS[1])
`)

// dropHistories deletes, of a page of keys, the histories of schedules that have
// enqueued nothing for long. A scheduler has a new history whenever it starts, and
// one that is killed leaves its history behind.
func (r *Repairer) dropHistories(ctx context.Context, keys []string) error {
	var failed []error
	for _, key := range keys {
		if !strings.HasPrefix(key, asynqx.SchedulerHistoryPrefix) {
			continue
		}
		n, err := r.run(ctx, dropHistoryCmd, []string{key}, int64(historyKept.Seconds())).Int()
		if err != nil {
			failed = append(failed, fmt.Errorf("delete %s: %w", key, err))
		}
		if n == 1 {
			r.log.Debug("deleted the history of a schedule that is no longer in use", zap.String("key", key))
		}
	}
	return errors.Join(failed...)
}
