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
// ARGV[4] -> its message; absent if it had none
//
// Returns 1 if it was removed and 0 if it has changed since it was seen.
var removeCmd = script(`
local id, key = ARGV[1], KEYS[8]
if message(key) ~= ARGV[4] or not unchanged(id, key, tonumber(ARGV[2]), ARGV[3]) then return 0 end
removeFromAll(id)
if redis.call("TYPE", key).ok == "hash" then redis.call("DEL", key) end
return 1
`)

// remove removes an item from the set where it was seen, unless it has changed. It
// reports that as the given repair.
func (r *Repairer) remove(ctx context.Context, q queue, it item, as Repair) error {
	args := []any{it.id, int(it.in), it.score}
	if it.raw != nil {
		args = append(args, *it.raw)
	}
	n, err := r.run(ctx, removeCmd, q.keys(it.id), args...).Int()
	if err != nil {
		return fmt.Errorf("remove %s: %w", it.id, err)
	}
	if n == 1 {
		r.logRepairs(q, as, it.id)
	}
	return nil
}

// isolate takes an item out of use. It removes an ID that has no message, and
// parks everything else. It reports whether the item is gone; one that the Parker
// refused is not.
func (r *Repairer) isolate(ctx context.Context, q queue, it item) (gone bool, err error) {
	switch {
	case it.raw == nil:
		return true, r.remove(ctx, q, it, Lost)
	case it.err != nil:
		return r.parkAndRemove(ctx, q, it, Quarantined, it.undecodable(q))
	case it.in == inLease:
		return r.parkCrashed(ctx, q, it)
	default:
		return r.parkArchived(ctx, q, it)
	}
}

const (
	// parkTimeout is less than lockTTL and maxGap.
	parkTimeout = 3 * time.Second
	// maxRefusals is how many refusals in a row end the parking of a pass. The
	// Parker needs Redis too, and each of its failures may take parkTimeout.
	maxRefusals = 3
	// A task that was refused leaves its turn to others for a pause, which doubles
	// from the first to the last of these with each further refusal.
	minRefusalPause, maxRefusalPause = 100 * time.Millisecond, 5 * time.Minute
)

// refusal is what is remembered of a task that the Parker has refused.
type refusal struct {
	pause time.Duration
	until time.Time
}

// parkAndRemove lets the Parker store a task, and then removes the original. It
// reports whether the task is gone from here. A task that the Parker refuses stays.
func (r *Repairer) parkAndRemove(ctx context.Context, q queue, it item, as Repair, l deadletter.Letter) (gone bool, err error) {
	key := q.name + ":" + it.id
	before := r.refused[key]
	if r.refusals >= maxRefusals || time.Now().Before(before.until) {
		return false, nil
	}
	if err := r.ensureLock(ctx); err != nil {
		return false, err
	}
	if err := r.park(ctx, l); err != nil {
		r.refusals++
		pause := min(max(2*before.pause, minRefusalPause), maxRefusalPause)
		r.refused[key] = refusal{pause, time.Now().Add(pause)}
		r.cfg.OnRepair(q.name, Refused, 1)
		r.repairs.Warn("could not park a task; trying again", zap.String("queue", q.name), zap.String("id", it.id), zap.String("as", string(as)), zap.Error(err))
		return false, nil
	}
	r.refusals = 0
	delete(r.refused, key)
	err = r.remove(ctx, q, it, as)
	return err == nil, err
}
