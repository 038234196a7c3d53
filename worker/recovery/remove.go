package recovery

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/kooworker/kooworker/worker/deadletter"
)

// removeCmd removes a task of which another copy is stored, or of which nothing
// is left. It is atomic.
//
// KEYS -> as in prelude, with one task
// --
// ARGV[1] -> the task's ID
// ARGV[2] -> the set where it was seen, 0 for no set
// ARGV[3] -> its score there
// ARGV[4] -> 1 if it had a message, 0 if it had none
// ARGV[5] -> that message
//
// Returns 1 if it was removed and 0 if it has changed since it was seen.
var removeCmd = script(`
local id, key = ARGV[1], KEYS[8]
local found = message(key)
if ARGV[4] == "1" and found ~= ARGV[5] or ARGV[4] == "0" and found then return 0 end
if not unchanged(id, key, tonumber(ARGV[2]), ARGV[3]) then return 0 end
removeFromAll(id)
if redis.call("TYPE", key).ok == "hash" then redis.call("DEL", key) end
return 1
`)

// remove removes an item from the set where it was seen, unless it has changed.
func (r *Repairer) remove(ctx context.Context, q queue, it item) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	has, raw := 0, ""
	if it.raw != nil {
		has, raw = 1, *it.raw
	}
	n, err := removeCmd.Run(ctx, r.cfg.Redis, q.keys(it.id), it.id, int(it.in), it.scoreArg(), has, raw).Int()
	if err != nil {
		return false, fmt.Errorf("remove %s: %w", it.id, err)
	}
	return n == 1, nil
}

// isolate takes an item out of use. It removes an ID that has no message, and
// quarantines bytes that are no task. A task it parks with the given function. It
// reports whether the item is gone; one that the Parker refused is not.
func (r *Repairer) isolate(ctx context.Context, q queue, it item, park func(context.Context, queue, item) (bool, error)) (gone bool, err error) {
	switch {
	case it.raw == nil:
		return true, r.removeGhost(ctx, q, it)
	case it.err != nil:
		return r.parkAndRemove(ctx, q, it, Quarantined, it.undecodable(q))
	default:
		return park(ctx, q, it)
	}
}

// removeGhost removes an ID without a message, and reports it.
func (r *Repairer) removeGhost(ctx context.Context, q queue, it item) error {
	done, err := r.remove(ctx, q, it)
	if done {
		r.report(q, Lost, it.id)
	}
	return err
}

const (
	// parkTimeout is less than lockTTL and maxGap.
	parkTimeout = 3 * time.Second
	// maxRefusals is how many refusals in a row end the parking of a pass. The
	// Parker needs Redis too, and each of its failures may take parkTimeout.
	maxRefusals = 3
)

// parkAndRemove lets the Parker store a task, and then removes the original. It
// reports whether the task is gone from here. A task that the Parker refuses
// stays.
func (r *Repairer) parkAndRemove(ctx context.Context, q queue, it item, as Repair, l deadletter.Letter) (gone bool, err error) {
	if r.refusals >= maxRefusals {
		return false, nil
	}
	if err := r.ensureLock(ctx); err != nil {
		return false, err
	}
	if err := r.park(ctx, l); err != nil {
		r.refusals++
		r.cfg.Observer.Repaired(q.name, Refused, 1)
		r.repairs.Warn("could not park a task; trying again", zap.String("queue", q.name), zap.String("id", it.id), zap.String("as", string(as)), zap.Error(err))
		return false, nil
	}
	r.refusals = 0
	done, err := r.remove(ctx, q, it)
	if done {
		r.report(q, as, it.id)
	}
	return err == nil, err
}
