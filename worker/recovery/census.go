package recovery

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/worker/asynqmsg"
)

const (
	// heartbeatLife is by how much asynq sets a heartbeat's expiry ahead.
	heartbeatLife = 10 * time.Second
	// leaseLife is by how much asynq sets a lease's end ahead, and how long a
	// fresh lease of ours lasts.
	leaseLife = 30 * time.Second
	// A lease is written right after its server's heartbeat, or when the task
	// is taken, which is before the next heartbeat. Those are 5 s apart, and
	// more on a machine that is short of time.
	leaseBefore = 2 * time.Second
	leaseAfter  = 10 * time.Second
	// maxServers bounds the list: asynq leaves dead servers in it until someone
	// looks at the servers' page.
	maxServers = 4096
	// memory is how long a server that is off the list is remembered: it takes
	// a lease half a minute to end, and a refused letter some more.
	memory = 10 * time.Minute

	statusActive = "active"
)

// census knows asynq's servers by their heartbeats. It remembers them, since
// asynqmon's page clears the dead ones off the list before their leases end.
type census struct {
	servers map[string]server
}

type server struct {
	beat    time.Time // by its own clock
	seen    time.Time // when it was last on the list, by ours
	closing bool      // it was shutting down at that beat
}

// take reads the list, and the status of each server that sent a heartbeat
// since the last time.
func (c *census) take(ctx context.Context, rdb redis.UniversalClient) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	list, err := rdb.ZRevRangeWithScores(ctx, allServers, 0, maxServers-1).Result()
	if err != nil {
		return fmt.Errorf("list the servers: %w", err)
	}
	now, status := time.Now(), make(map[string]*redis.StringCmd)
	if c.servers == nil {
		c.servers = make(map[string]server)
	}
	_, err = rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, z := range list {
			key, _ := z.Member.(string)
			s := server{beat: time.Unix(int64(z.Score), 0).Add(-heartbeatLife), seen: now, closing: c.servers[key].closing}
			if old, known := c.servers[key]; !known || !old.beat.Equal(s.beat) {
				status[key] = p.Get(ctx, key)
			}
			c.servers[key] = s
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return fmt.Errorf("read the servers: %w", err)
	}
	for key, cmd := range status {
		info, err := cmd.Bytes()
		if err != nil {
			continue // its heartbeat has expired; what was known of it holds
		}
		s := c.servers[key]
		s.closing = closing(info)
		c.servers[key] = s
	}
	for key, s := range c.servers {
		if now.Sub(s.seen) > memory {
			delete(c.servers, key)
		}
	}
	return nil
}

// died reports whether a server fell silent just when a lease was written, and
// was not shutting down.
func (c *census) died(written time.Time) bool {
	for _, s := range c.servers {
		if after := written.Sub(s.beat); after >= -leaseBefore && after <= leaseAfter && !s.closing {
			return true
		}
	}
	return false
}

// closing reads off a server's info whether it is shutting down.
func closing(info []byte) bool {
	status, err := asynqmsg.ServerStatus(info)
	return err == nil && status != "" && status != statusActive
}
