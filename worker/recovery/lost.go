package recovery

import (
	"maps"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/kooworker/kooworker/internal/asynqx"
)

// recovered counts the tasks of one dead worker that were requeued. It takes several passes
// until all of their leases have expired, and the log names a dead worker once.
type recovered struct {
	died               map[string]time.Time // the worker's last heartbeat; several if one of them had the tasks; none if nobody knows
	requeued, suspects int
	// complete is when no more leases of it can expire, by Redis' clock.
	complete time.Time
}

// unknownFor is how long tasks whose worker nobody knows are counted after the last of them.
const unknownFor = 5 * time.Second

// countRecovered counts a task that was requeued because its lease had expired.
func (r *Repairer) countRecovered(it item) {
	name := nameOf(it.died)
	of := r.recovered[name]
	of.died = it.died
	of.requeued++
	if it.suspect {
		of.suspects++
	}
	of.complete = r.uptime.last.Add(unknownFor)
	for _, at := range it.died {
		// What the worker has written after that would not count as its own.
		of.complete = at.Add(leaseAfter + asynqx.LeaseTTL + grace)
	}
	r.recovered[name] = of
}

// reportRecovered writes a line for each dead worker whose tasks are requeued. If all is
// true, it does not wait until none can come any more.
func (r *Repairer) reportRecovered(all bool) {
	for name, of := range r.recovered {
		if !all && r.uptime.last.Before(of.complete) {
			continue
		}
		delete(r.recovered, name)
		counts := []zap.Field{zap.Int("requeued", of.requeued), zap.Int("suspects", of.suspects)}
		switch len(of.died) {
		case 0:
			r.log.Warn("leases had expired while Redis or their worker was away: the tasks run again", counts...)
		case 1:
			for process, at := range of.died {
				host, pid := process, ""
				if i := strings.LastIndexByte(process, ':'); i >= 0 {
					host, pid = process[:i], process[i+1:]
				}
				r.log.Warn("a worker died: its tasks run again", append(counts, zap.String("host", host), zap.String("pid", pid), zap.Time("last_heartbeat", at))...)
			}
		default:
			r.log.Warn("one of several workers that died had these tasks: they run again", append(counts, zap.Strings("workers", slices.Sorted(maps.Keys(of.died))))...)
		}
	}
}
