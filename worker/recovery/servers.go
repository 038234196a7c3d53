package recovery

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
)

const (
	// A server writes a lease right after its heartbeat, or when it takes the
	// task, which is before its next heartbeat. Heartbeats are 5 s apart, and
	// more on a machine that is short of time.
	leaseBefore = 2 * time.Second
	leaseAfter  = 10 * time.Second
	// maxServers bounds the list: asynq leaves dead servers in it until somebody
	// opens asynqmon's page of servers.
	maxServers = 4096
	// retention is how long a server that is off the list is remembered. A lease
	// ends after half a minute, and a task that the Parker refuses waits longer.
	retention = 10 * time.Minute
)

// serverRegistry knows asynq's servers by their heartbeats. It remembers them, since
// asynqmon's page removes the dead ones from the list before their leases end.
type serverRegistry map[string]server

type server struct {
	heartbeat  time.Time // the last one, by the server's clock
	lastListed time.Time // when it was last on the list, by ours
	closing    bool      // it was shutting down at that heartbeat
}

// refresh reads the list, and the info of each server that has sent a heartbeat
// since the last refresh.
func (r serverRegistry) refresh(ctx context.Context, rdb redis.UniversalClient) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	list, err := rdb.ZRevRangeWithScores(ctx, asynqx.AllServersKey, 0, maxServers-1).Result()
	if err != nil {
		return fmt.Errorf("list the servers: %w", err)
	}
	now, infos := time.Now(), make(map[string]*redis.StringCmd)
	_, err = rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, z := range list {
			key, _ := z.Member.(string)
			s := server{heartbeat: time.Unix(int64(z.Score), 0).Add(-asynqx.HeartbeatTTL), lastListed: now, closing: r[key].closing}
			if old, known := r[key]; !known || !old.heartbeat.Equal(s.heartbeat) {
				infos[key] = p.Get(ctx, key)
			}
			r[key] = s
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return fmt.Errorf("read the servers: %w", err)
	}
	for key, cmd := range infos {
		info, err := cmd.Bytes()
		if err != nil {
			continue // its info has expired; what was known of it still holds
		}
		s := r[key]
		s.closing = asynqx.ServerClosing(info)
		r[key] = s
	}
	for key, s := range r {
		if now.Sub(s.lastListed) > retention {
			delete(r, key)
		}
	}
	return nil
}

// crashedNear reports whether a server sent its last heartbeat at about the time
// when a lease was written, and was not shutting down then.
func (r serverRegistry) crashedNear(written time.Time) bool {
	for _, s := range r {
		if after := written.Sub(s.heartbeat); after >= -leaseBefore && after <= leaseAfter && !s.closing {
			return true
		}
	}
	return false
}
