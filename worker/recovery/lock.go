package recovery

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// lockKey is held by the repairer that acts.
	lockKey = "{kooworker:recovery}:lock"
	// lockLife is how soon another repairer takes over when the holder dies.
	lockLife = 5 * time.Second
	// beatEvery is the time between two renewals during a long pass.
	beatEvery = time.Second
	// opTimeout bounds one exchange with Redis.
	opTimeout = 3 * time.Second
)

// lockCmd takes the lock, or renews it, and tells the time. All of it is
// atomic.
//
// The renewal is a SET and no PEXPIRE on purpose: a Redis that is full refuses
// it, as it refuses the workers' heartbeats, and then their silence must not be
// taken for death.
//
// KEYS[1] -> {kooworker:recovery}:lock
// --
// ARGV[1] -> the repairer's token
// ARGV[2] -> the lock's life in ms
//
// Returns 1 if the lock is held by this token now and 0 otherwise, then Redis'
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

// errNotHeld ends a pass whose lock went to another repairer. What this one
// began is safe: every script looks for itself before it acts, so the lock only
// spares Redis the same work twice.
var errNotHeld = errors.New("another repairer holds the lock")

// beat takes or renews the lock and notes that Redis is there. Those that wait
// for the lock beat as well, so that they know of outages when they take over.
func (r *Repairer) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	got, err := lockCmd.Run(ctx, r.cfg.Redis, []string{lockKey}, r.token, lockLife.Milliseconds()).Int64Slice()
	if err != nil {
		return fmt.Errorf("take the lock: %w", err)
	}
	if len(got) != 3 {
		return fmt.Errorf("take the lock: %d values; want 3", len(got))
	}
	r.beaten = time.Now()
	r.contact.touch(time.Unix(got[1], got[2]*int64(time.Microsecond)))
	if held := got[0] == 1; held != r.held {
		r.held = held
		r.log.Info("the lock changed hands", r.holds())
	}
	if !r.held {
		return errNotHeld
	}
	return nil
}

// keep beats again if the last beat is old: before each step of a pass.
func (r *Repairer) keep(ctx context.Context) error {
	if !r.held {
		return errNotHeld
	}
	if time.Since(r.beaten) < beatEvery {
		return nil
	}
	return r.beat(ctx)
}

// release gives the lock back when the repairer stops, so that the next one
// need not wait for its end.
func (r *Repairer) release(ctx context.Context) {
	if !r.held {
		return
	}
	r.held = false
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	// Not released, the lock ends by itself.
	_ = unlockCmd.Run(ctx, r.cfg.Redis, []string{lockKey}, r.token).Err()
}
