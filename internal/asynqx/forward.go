package asynqx

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// ForwardHook returns a go-redis hook for the Redis client of the asynq servers. Once a
// second a server asks for each of its queues whether a scheduled task or a retry is due: two
// round trips for a queue. The hook asks once for all of them whether there are any, and
// answers in Redis' place where there are none. It looks with rdb, which may be the same
// client.
//
// A queue whose master of a cluster does not answer counts as one that has none: the server
// would end its round with the error, and not ask for the queues that come after it.
func ForwardHook(rdb redis.UniversalClient, queues []string) redis.Hook {
	f := &forwardLook{rdb: rdb, exists: make(map[string]bool)}
	for _, q := range queues {
		f.keys = append(f.keys, ScheduledKey(q), RetryKey(q))
	}
	return commandHook(func(next redis.ProcessHook) redis.ProcessHook {
		return func(ctx context.Context, cmd redis.Cmder) error {
			s, ok := scriptOf(cmd)
			if !ok {
				return next(ctx, cmd)
			}
			if _, ok := s.forwards(); ok && f.isEmpty(ctx, s.key(0)) {
				s.cmd.SetVal(int64(0)) // none was due
				return nil
			}
			return next(ctx, cmd)
		}
	})
}

// forwardLook knows which sets of tasks that wait for their time exist.
type forwardLook struct {
	rdb  redis.UniversalClient
	keys []string

	mu     sync.Mutex
	at     time.Time
	exists map[string]bool // of the latest look
}

// lookTTL is how long a look is used. It is less than the time between two rounds of a
// server, so that each round begins with a look of its own.
const lookTTL = 500 * time.Millisecond

// lookTimeout bounds a look. A server asks once a second.
const lookTimeout = time.Second

// isEmpty reports whether a set does not exist. Of a set that could not be looked at it says
// no.
func (f *forwardLook) isEmpty(ctx context.Context, key string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.at) > lookTTL {
		f.at = time.Now()
		f.look(ctx)
	}
	exists, isKnown := f.exists[key]
	return isKnown && !exists
}

func (f *forwardLook) look(ctx context.Context) {
	clear(f.exists)
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	_, isCluster := f.rdb.(*redis.ClusterClient)
	var mu sync.Mutex
	EachMaster(ctx, f.rdb, f.keys, func(key string) string { return key }, func(keys []string) {
		replies := make([]*redis.IntCmd, len(keys))
		EachReply(f.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, key := range keys {
				replies[i] = p.Exists(ctx, key)
			}
			return nil
		}))
		mu.Lock()
		defer mu.Unlock()
		for i, reply := range replies {
			if n, err := reply.Result(); err == nil || isCluster && IsUnavailable(err) {
				f.exists[keys[i]] = n > 0
			}
		}
	})
}
