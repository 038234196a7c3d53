package recovery

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

const (
	// lockKey is held by the repairer that acts.
	lockKey = "{kooworker:recovery}:lock"
	// lockTTL is how soon another repairer takes over when the holder dies.
	lockTTL = 5 * time.Second
	// renewEvery is the time between two renewals during a long pass.
	renewEvery = time.Second
	// opTimeout bounds one exchange with Redis.
	opTimeout = 3 * time.Second
)

// lockCmd takes the lock, or renews it, and tells the time. All of it is atomic.
//
// It renews with SET and not with PEXPIRE on purpose. A Redis that is full
// refuses SET, as it refuses the workers' heartbeats; then the workers' silence
// must not be taken for a crash.
//
// KEYS[1] -> {kooworker:recovery}:lock
// --
// ARGV[1] -> the repairer's token
// ARGV[2] -> how long the lock lasts, in ms
//
// Returns 1 if the lock is held with this token now and 0 otherwise, then Redis'
// time in seconds and the microseconds beyond.
var lockCmd = redis.NewScript(`
local now = redis.call("TIME")
local holder = redis.call("GET", KEYS[1])
if holder and holder ~= ARGV[1] then
  return {0, tonumber(now[1]), tonumber(now[2])}
end
redis.call("SET", KEYS[1], ARGV[1], "PX", ARGV[2])
return {1, tonumber(now[1]), tonumber(now[2])}
`)

// unlockCmd releases the lock unless another holds it by now. It is atomic.
//
// KEYS[1] -> {kooworker:recovery}:lock
// --
// ARGV[1] -> the repairer's token
//
// Returns 1 if the lock was released and 0 otherwise.
var unlockCmd = redis.NewScript(`
if redis.call("GET", KEYS[1]) == ARGV[1] then
  return redis.call("DEL", KEYS[1])
end
return 0
`)

// errNotHeld ends a pass whose lock went to another repairer. What this one has
// begun is safe: every script checks for itself before it acts. The lock only
// spares Redis doing the same work twice.
var errNotHeld = errors.New("another repairer holds the lock")

// renewLock takes or renews the lock, and notes that Redis has answered. A
// repairer that waits for the lock calls it as well, so that it knows of outages
// when it takes over.
func (r *Repairer) renewLock(ctx context.Context) error {
	got, err := r.run(ctx, lockCmd, []string{lockKey}, r.token, lockTTL.Milliseconds()).Int64Slice()
	if err != nil {
		return fmt.Errorf("take the lock: %w", err)
	}
	r.renewed = time.Now()
	r.uptime.answered(time.Unix(got[1], got[2]*int64(time.Microsecond)))
	if held := got[0] == 1; held != r.holdsLock {
		r.holdsLock = held
		r.log.Info("the lock changed hands", zap.Bool("this_process_repairs", held))
	}
	if !r.holdsLock {
		return errNotHeld
	}
	return nil
}

// ensureLock renews the lock if the last renewal is old. Each step of a pass
// begins with it.
func (r *Repairer) ensureLock(ctx context.Context) error {
	if !r.holdsLock {
		return errNotHeld
	}
	if time.Since(r.renewed) < renewEvery {
		return nil
	}
	return r.renewLock(ctx)
}

// releaseLock gives the lock back when the repairer stops, so that the next one
// need not wait until it expires.
func (r *Repairer) releaseLock(ctx context.Context) {
	if !r.holdsLock {
		return
	}
	r.holdsLock = false
	r.reportRecovered(true)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	// If this fails the lock expires by itself.
	_ = unlockCmd.Run(ctx, r.cfg.Redis, []string{lockKey}, r.token).Err()
}
