package worker

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

// fleet is what the workers over one Redis know of each other: how many are
// alive, so that they can share a rate, and for how long KooDrive has asked
// any of them to wait. Nobody asks Redis when a call is to be made: a loop
// keeps a snapshot.
//
// While Redis is away the snapshot stays as it was. Believing to be alone would
// multiply the rate just when something is wrong.
type fleet struct {
	rdb redis.UniversalClient
	id  string
	log *zap.Logger

	mu          sync.Mutex
	live        int
	closedUntil time.Time // by the local clock
}

const (
	// beatEvery is the time between two beats of a worker, and the age of the
	// snapshot at most.
	beatEvery = 500 * time.Millisecond
	// beatLife is how long a worker counts as alive after its last beat.
	beatLife = 5 * time.Second
	// beatTimeout bounds one exchange with Redis.
	beatTimeout = 2 * time.Second
)

// The braces make a Redis cluster keep both keys in one place.
const (
	fleetWorkersKey = "{kooworker:fleet}:workers"
	fleetClosedKey  = "{kooworker:fleet}:closed"
)

// beatCmd says that a worker is alive, and returns what the fleet knows. All of
// it is atomic, and by Redis' own clock.
//
// KEYS[1] -> {kooworker:fleet}:workers, a sorted set: worker by its last beat in ms
// KEYS[2] -> {kooworker:fleet}:closed, a key that exists while all must wait
// --
// ARGV[1] -> the worker's id
// ARGV[2] -> how long a worker counts as alive after a beat, in ms
//
// Returns the number of live workers, this one included, and the ms left to
// wait, 0 or less for none.
var beatCmd = redis.NewScript(`
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call("ZADD", KEYS[1], now, ARGV[1])
redis.call("ZREMRANGEBYSCORE", KEYS[1], "-inf", now - ARGV[2])
redis.call("PEXPIRE", KEYS[1], ARGV[2])
return {redis.call("ZCARD", KEYS[1]), redis.call("PTTL", KEYS[2])}
`)

// closeCmd makes all wait, unless they wait for longer already.
//
// KEYS[1] -> {kooworker:fleet}:closed
// --
// ARGV[1] -> how long, in ms
// ARGV[2] -> who asks, for people who look
//
// Returns the ms that all wait now.
var closeCmd = redis.NewScript(`
local left = redis.call("PTTL", KEYS[1])
if left < tonumber(ARGV[1]) then
	redis.call("SET", KEYS[1], ARGV[2], "PX", ARGV[1])
	return tonumber(ARGV[1])
end
return left
`)

func newFleet(rdb redis.UniversalClient, log *zap.Logger) *fleet {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return &fleet{rdb: rdb, log: log, live: 1, id: fmt.Sprintf("%s:%d:%s", host, os.Getpid(), uuid.NewString())}
}

// run beats until ctx ends, and then says goodbye.
func (f *fleet) run(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		f.beat(ctx)
		select {
		case <-ctx.Done():
			f.leave(context.WithoutCancel(ctx))
			return
		case <-tick.C:
		}
	}
}

func (f *fleet) beat(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	answer, err := beatCmd.Run(ctx, f.rdb, []string{fleetWorkersKey, fleetClosedKey}, f.id, beatLife.Milliseconds()).Int64Slice()
	if err == nil && len(answer) != 2 {
		err = fmt.Errorf("%d values; want 2", len(answer))
	}
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			f.log.Warn("the fleet cannot be asked; its last known state holds", zap.Error(err))
		}
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.live = max(int(answer[0]), 1)
	if left := time.Duration(answer[1]) * time.Millisecond; left > 0 {
		until := time.Now().Add(left)
		if until.After(f.closedUntil.Add(time.Second)) {
			f.log.Warn("KooDrive asked another worker for a rest: no worker of the fleet calls until then", zap.Time("until", until))
		}
		f.closedUntil = until
	}
}

// leave lets the others share what this worker used.
func (f *fleet) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	if err := f.rdb.ZRem(ctx, fleetWorkersKey, f.id).Err(); err != nil {
		f.log.Debug("the fleet will notice by itself that this worker is gone", zap.Error(err))
	}
}

// Snapshot returns the number of live workers, and how long all must wait.
func (f *fleet) Snapshot() (live int, closedFor time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.live, max(time.Until(f.closedUntil), 0)
}

// Pause makes every worker wait, this one at once.
func (f *fleet) Pause(ctx context.Context, d time.Duration) {
	f.mu.Lock()
	if until := time.Now().Add(d); until.After(f.closedUntil) {
		f.closedUntil = until
		f.log.Warn("KooDrive asked for a rest: no worker of the fleet calls until then", zap.Time("until", until), zap.Duration("for", d))
	}
	f.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), beatTimeout)
	defer cancel()
	if err := closeCmd.Run(ctx, f.rdb, []string{fleetClosedKey}, max(d.Milliseconds(), 1), f.id).Err(); err != nil {
		f.log.Warn("the other workers could not be told to wait", zap.Duration("for", d), zap.Error(err))
	}
}
