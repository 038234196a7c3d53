package recovery

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
)

// withoutOwner returns the items that no living server works on. The package comment
// says why a lease alone does not tell.
func (r *Repairer) withoutOwner(ctx context.Context, items []item) ([]item, error) {
	if len(items) == 0 {
		return nil, nil
	}
	if r.owned == nil { // once in a pass is enough
		var err error
		if r.owned, err = r.servers.owned(ctx, r.cfg.Redis); err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(items, func(it item) bool {
		return r.owned[it.id] || r.servers.justWrote(leaseWritten(it.score))
	}), nil
}

// leaseWritten is when a lease was written, by its owner's clock.
func leaseWritten(score float64) time.Time {
	return time.Unix(int64(score), 0).Add(-asynqx.LeaseTTL)
}

// owned returns the IDs of the tasks that living servers list as their own. A server
// writes that list with each heartbeat, and it expires 10 s later by Redis' clock.
func (r serverRegistry) owned(ctx context.Context, rdb redis.UniversalClient) (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	var lists []*redis.StringSliceCmd
	_, err := rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for key, s := range r {
			if s.alive {
				lists = append(lists, p.HKeys(ctx, asynqx.ServerTasksKey(key)))
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read what the servers work on: %w", err)
	}
	out := make(map[string]bool)
	for _, list := range lists {
		for _, id := range list.Val() {
			out[id] = true
		}
	}
	return out, nil
}

// justWrote reports whether a lease was written at about the time of the last
// heartbeat of a living server, by that server's clock. If such a lease has expired,
// the server's clock is behind, and the server may not have listed the task yet.
func (r serverRegistry) justWrote(written time.Time) bool {
	for _, s := range r {
		if s.alive && s.fits(written) {
			return true
		}
	}
	return false
}
