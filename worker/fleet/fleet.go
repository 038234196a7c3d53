// Package fleet is what the workers over one Redis know of each other: how many
// are alive, so that they can share a rate, and for how long KooDrive has asked
// all of them to pause.
//
// It owns the keys {kooworker:fleet}:* in Redis. A worker sends a heartbeat twice a
// second, and keeps the reply as a snapshot, so that no call to KooDrive has to ask
// Redis first. While Redis does not answer, the snapshot stays as it was: a worker
// that believed to be the only one would multiply the rate.
//
// Package worker runs it, and gives it to package gate as its Fleet. It imports
// nothing of this module, and must not import asynq.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

// Fleet is one worker's view of all workers. It is safe for concurrent use.
type Fleet struct {
	rdb redis.UniversalClient
	id  string
	log *zap.Logger

	mu          sync.Mutex
	live        int
	pausedUntil time.Time // by the local clock
}

const (
	// heartbeatEvery is the time between two heartbeats of a worker, and the
	// greatest age of the snapshot.
	heartbeatEvery = 500 * time.Millisecond
	// heartbeatTTL is how long a worker counts as alive after its last heartbeat.
	heartbeatTTL = 5 * time.Second
	// redisTimeout bounds one exchange with Redis.
	redisTimeout = 2 * time.Second
)

// The braces make a Redis cluster keep both keys in one place.
const (
	workersKey = "{kooworker:fleet}:workers"
	pausedKey  = "{kooworker:fleet}:closed"
)

// heartbeatCmd records that a worker is alive, and returns what the fleet knows.
// All of it is atomic, and uses Redis' own clock.
//
// KEYS[1] -> {kooworker:fleet}:workers, a sorted set: worker by its last heartbeat in ms
// KEYS[2] -> {kooworker:fleet}:closed, a key that exists while every worker must pause
// --
// ARGV[1] -> the worker's id
// ARGV[2] -> how long a worker counts as alive after a heartbeat, in ms
//
// Returns the number of live workers, this one included, and the ms left to
// pause, 0 or less for none.
var heartbeatCmd = redis.NewScript(`
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call("ZADD", KEYS[1], now, ARGV[1])
redis.call("ZREMRANGEBYSCORE", KEYS[1], "-inf", now - ARGV[2])
redis.call("PEXPIRE", KEYS[1], ARGV[2])
return {redis.call("ZCARD", KEYS[1]), redis.call("PTTL", KEYS[2])}
`)

// pauseCmd makes every worker pause, unless the present pause lasts longer. It is
// atomic.
//
// KEYS[1] -> {kooworker:fleet}:closed
// --
// ARGV[1] -> how long, in ms
// ARGV[2] -> the id of the worker that asks, for people who read the key
//
// Returns the ms that every worker pauses now.
var pauseCmd = redis.NewScript(`
local left = redis.call("PTTL", KEYS[1])
if left < tonumber(ARGV[1]) then
	redis.call("SET", KEYS[1], ARGV[2], "PX", ARGV[1])
	return tonumber(ARGV[1])
end
return left
`)

// New returns the view of a worker that no other worker knows yet. It becomes
// known with Run.
func New(rdb redis.UniversalClient, log *zap.Logger) *Fleet {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return &Fleet{rdb: rdb, log: log, live: 1, id: fmt.Sprintf("%s:%d:%s", host, os.Getpid(), uuid.NewString())}
}

// Run sends heartbeats until ctx ends, and then deregisters the worker.
func (f *Fleet) Run(ctx context.Context) {
	tick := time.NewTicker(heartbeatEvery)
	defer tick.Stop()
	for {
		f.heartbeat(ctx)
		select {
		case <-ctx.Done():
			f.deregister(context.WithoutCancel(ctx))
			return
		case <-tick.C:
		}
	}
}

func (f *Fleet) heartbeat(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	answer, err := heartbeatCmd.Run(ctx, f.rdb, []string{workersKey, pausedKey}, f.id, heartbeatTTL.Milliseconds()).Int64Slice()
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			f.log.Warn("cannot read the state of the fleet from Redis; the last known state stays in use", zap.Error(err))
		}
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.live = int(answer[0])
	if left := time.Duration(answer[1]) * time.Millisecond; left > 0 {
		until := time.Now().Add(left)
		if until.After(f.pausedUntil.Add(time.Second)) {
			f.log.Warn("KooDrive asked another worker for a pause: no worker of the fleet calls until then", zap.Time("until", until))
		}
		f.pausedUntil = until
	}
}

// deregister lets the other workers share this worker's part of the rate.
func (f *Fleet) deregister(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	if err := f.rdb.ZRem(ctx, workersKey, f.id).Err(); err != nil {
		f.log.Debug("cannot deregister this worker from the fleet; its last heartbeat expires soon", zap.Error(err))
	}
}

// Snapshot returns the number of live workers, and for how long from now every
// worker must pause. It answers from memory.
func (f *Fleet) Snapshot() (live int, pausedFor time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.live, max(time.Until(f.pausedUntil), 0)
}

// Pause makes every worker pause, this one at once. A longer pause stays as it is.
func (f *Fleet) Pause(ctx context.Context, d time.Duration) {
	f.mu.Lock()
	if until := time.Now().Add(d); until.After(f.pausedUntil) {
		f.pausedUntil = until
		f.log.Warn("KooDrive asked for a pause: no worker of the fleet calls until then", zap.Time("until", until), zap.Duration("for", d))
	}
	f.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), redisTimeout)
	defer cancel()
	if err := pauseCmd.Run(ctx, f.rdb, []string{pausedKey}, max(d.Milliseconds(), 1), f.id).Err(); err != nil {
		f.log.Warn("cannot tell the other workers to pause", zap.Duration("for", d), zap.Error(err))
	}
}
