package recovery

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
)

// removeCmd removes a task of which another copy is stored, or of which nothing
// is left. It is atomic.
//
// KEYS -> as in prelude, with one task
// --
// ARGV[1] -> the task's ID
// ARGV[2] -> the place where it was seen, 0 for no set
// ARGV[3] -> its score there
// ARGV[4] -> 1 if it had a message, 0 if it had none
// ARGV[5] -> that message
//
// Returns 1 if it was removed and 0 if it is not as it was seen.
var removeCmd = script(`
local id, key = ARGV[1], KEYS[8]
local found = message(key)
if ARGV[4] == "1" and found ~= ARGV[5] or ARGV[4] == "0" and found then return 0 end
if not still(id, key, tonumber(ARGV[2]), ARGV[3]) then return 0 end
leave(id)
if redis.call("TYPE", key).ok == "hash" then redis.call("DEL", key) end
return 1
`)

// remove removes an item from wherever it was seen, unless it changed.
func (r *Repairer) remove(ctx context.Context, q queue, it item) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	has, raw := 0, ""
	if it.raw != nil {
		has, raw = 1, *it.raw
	}
	n, err := removeCmd.Run(ctx, r.cfg.Redis, q.keys(it.id), it.id, int(it.place), it.scoreArg(), has, raw).Int()
	if err != nil {
		return false, fmt.Errorf("remove %s: %w", it.id, err)
	}
	return n == 1, nil
}

// drop removes an ID without a message, and reports it.
func (r *Repairer) drop(ctx context.Context, q queue, it item) error {
	done, err := r.remove(ctx, q, it)
	if done {
		r.report(q, Lost, it.id)
	}
	return err
}

const (
	// parkTimeout stays below lockLife and maxGap.
	parkTimeout = 3 * time.Second
	// maxRefusals is how many refusals in a row end the parking of a pass. The
	// Parker needs Redis too, and each of its failures may take parkTimeout.
	maxRefusals = 3
)

// hand gives a task to the Parker and, when it is stored there, removes it here.
// It reports whether the task is off our hands; one that the Parker refused is
// not, and stays.
func (r *Repairer) hand(ctx context.Context, q queue, it item, as Repair, park func(context.Context) error) (bool, error) {
	if r.refusals >= maxRefusals {
		return false, nil
	}
	if err := r.keep(ctx); err != nil {
		return false, err
	}
	limited, cancel := context.WithTimeout(ctx, parkTimeout)
	err := park(limited)
	cancel()
	if err != nil {
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

// quarantine hands over bytes that are no task.
func (r *Repairer) quarantine(ctx context.Context, q queue, it item) (bool, error) {
	return r.hand(ctx, q, it, Quarantined, func(ctx context.Context) error {
		return r.cfg.Parker.ParkUndecodable(ctx, Undecodable{Queue: q.name, ID: it.id, Message: []byte(*it.raw), Err: it.err})
	})
}

// archive hands over an archived task. A dead letter is put back among the
// others, since it is where it belongs already.
func (r *Repairer) archive(ctx context.Context, q queue, it item) (bool, error) {
	if q.dead {
		return true, r.repark(ctx, q, it, it.msg.ErrorMsg, Collected)
	}
	return r.hand(ctx, q, it, Collected, func(ctx context.Context) error {
		return r.cfg.Parker.ParkArchived(ctx, it.task(q))
	})
}
