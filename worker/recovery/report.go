package recovery

import (
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Repair names what was done, as metrics and logs call it.
type Repair string

// The repairs.
const (
	Requeued    Repair = "requeued"    // a dead worker's task runs again
	Crashed     Repair = "crashed"     // a task was parked that kept killing its worker
	Leased      Repair = "leased"      // an active task without a lease got one
	Quarantined Repair = "quarantined" // bytes that are no task went to the Parker
	Lost        Repair = "lost"        // an ID without a message was removed; only the log has it
	Collected   Repair = "collected"   // an archived task was parked
	Restored    Repair = "restored"    // a task that was in no set is back in its queue
	Stray       Repair = "stray"       // a needless entry was removed; its task is in another set, or done
	Registered  Repair = "registered"  // a queue is listed again
	Paused      Repair = "paused"      // a queue is paused: counted once, not changed
	Refused     Repair = "refused"     // the Parker failed; another pass tries again
)

// AllRepairs lists every repair.
func AllRepairs() []Repair {
	return []Repair{Requeued, Crashed, Leased, Quarantined, Lost, Collected, Restored, Stray, Registered, Paused, Refused}
}

// maxIDs is how many IDs a line about repairs has.
const maxIDs = 5

// sampled returns a logger that writes of each kind of repair 20 lines a second,
// and then every 100th. Lines about lost tasks are not written with it, since the
// ID in the line is all that is left.
func sampled(log *zap.Logger) *zap.Logger {
	return log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, time.Second, 20, 100)
	}))
}

// logRepairs counts repairs of one kind, and logs how many there were.
func (r *Repairer) logRepairs(q queue, repair Repair, ids ...string) {
	if len(ids) == 0 {
		return
	}
	r.repaired += len(ids)
	r.cfg.OnRepair(q.name, repair, len(ids))
	if repair == Lost {
		r.log.Error("lost: these tasks have no message, only their IDs are left", zap.String("queue", q.name), zap.Strings("ids", ids))
		return
	}
	level := zap.WarnLevel
	switch repair {
	case Requeued: // reportRecovered writes a line for all of a worker
		level = zap.DebugLevel
	case Stray:
		level = zap.InfoLevel
	default:
	}
	r.repairs.Log(level, "repaired: "+string(repair), zap.String("queue", q.name), zap.Int("tasks", len(ids)), zap.Strings("ids", ids[:min(len(ids), maxIDs)]))
}

// logFailureEvery is the time between two lines about one series of failures.
const logFailureEvery = 30 * time.Second

// logFailure logs the first failure of a series, and then one every logFailureEvery.
func (r *Repairer) logFailure(err error) {
	r.failures++
	if r.failures > 1 && time.Since(r.failureLogged) < logFailureEvery {
		return
	}
	r.failureLogged = time.Now()
	r.log.Warn("cannot repair: Redis fails; trying again with pauses", zap.Error(err), zap.Int("failures", r.failures))
}

// logSuccess logs the end of a series of failures, and which workers have died.
func (r *Repairer) logSuccess() {
	r.reportRecovered(!r.holdsLock)
	if r.failures > 0 {
		r.log.Debug("repairs go on", zap.Int("failures", r.failures))
		r.failures = 0
	}
}
