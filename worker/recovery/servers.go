package recovery

import (
	"cmp"
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
	// calmWithin is how long before and after a crash no other worker may die. It is
	// less than the time between two crashes of one task: a task comes back when its
	// lease has expired, and a lease lasts for at least 25 s after the crash.
	calmWithin = 20 * time.Second
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
	heardAt    time.Time // when we first saw that heartbeat, by our clock
	lastListed time.Time // when it was last on the list, by ours
	closing    bool      // it was shutting down at that heartbeat
	slots      int       // how many tasks it ran at once; 0 if that is not known
	alive      bool      // its info has not expired, which happens 10 s after a heartbeat by Redis' clock
}

// fits reports whether a lease was written at about the time of the heartbeat.
func (s server) fits(written time.Time) bool {
	after := written.Sub(s.heartbeat)
	return after >= -leaseBefore && after <= leaseAfter
}

// died reports whether the server has ended, and not in order.
func (s server) died() bool { return !s.alive && !s.closing }

// refresh reads the list, and the info of each server that was alive or has sent a
// heartbeat lately. A server puts itself on the list first, and writes its info then.
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
			old, known := r[key]
			s := old
			s.heartbeat, s.lastListed = time.Unix(int64(z.Score), 0).Add(-asynqx.HeartbeatTTL), now
			if !known || !old.heartbeat.Equal(s.heartbeat) {
				s.heardAt = now
			}
			if old.alive || now.Sub(s.heardAt) < asynqx.HeartbeatTTL {
				infos[key] = p.Get(ctx, key)
			}
			r[key] = s
		}
		return nil
	})
	_, isCluster := rdb.(*redis.ClusterClient) // there an info may be away while others are not
	if err != nil && !errors.Is(err, redis.Nil) && !isCluster {
		return fmt.Errorf("read the servers: %w", err)
	}
	for key, cmd := range infos {
		info, err := cmd.Bytes()
		s := r[key]
		switch {
		case err == nil:
			s.alive = true
			s.closing, s.slots = asynqx.ParseServer(info)
		case errors.Is(err, redis.Nil):
			s.alive = false // what else was known of it still holds
		default:
			s.alive = true // its master of a cluster does not answer; nobody must be taken for dead
		}
		r[key] = s
	}
	for key, s := range r {
		if now.Sub(s.lastListed) > retention {
			delete(r, key)
		}
	}
	return nil
}

// slotsOf returns how many tasks these processes ran at once when they died. One that died
// before anybody read how many counts with the most of any other; isKnown is false if
// nobody has told.
func (r serverRegistry) slotsOf(died map[string]time.Time) (slots int, isKnown bool) {
	most := 0
	for _, s := range r {
		most = max(most, s.slots)
	}
	for key, s := range r {
		if at, ok := died[asynqx.ServerProcess(key)]; ok && s.heartbeat.Equal(at) {
			slots += cmp.Or(s.slots, most)
		}
	}
	return slots, most > 0
}

// diedNear returns the processes that died at about the time when a lease was
// written, with the last heartbeat of each. Their last heartbeat fits the lease, and
// they were not shutting down then.
func (r serverRegistry) diedNear(written time.Time) map[string]time.Time {
	out := make(map[string]time.Time)
	for key, s := range r {
		if s.fits(written) && s.died() {
			out[asynqx.ServerProcess(key)] = s.heartbeat
		}
	}
	return out
}

// calm reports whether no other process died at about the time when a process sent
// its last heartbeat. A process of the same name may have replaced it and died too.
func (r serverRegistry) calm(process string, at time.Time) bool {
	for key, s := range r {
		apart := s.heartbeat.Sub(at).Abs()
		own := asynqx.ServerProcess(key) == process && apart <= leaseAfter
		if s.died() && !own && apart <= calmWithin {
			return false
		}
	}
	return true
}
