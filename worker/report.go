package worker

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/fleet"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/gate/quota"
)

// reporter makes the reports of a worker.
type reporter struct {
	w        *Worker
	host     string
	started  time.Time
	settings map[string]string

	at   time.Time // of the latest report
	last map[gate.Kind]gate.QuotaStatus
}

func newReporter(w *Worker) *reporter {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return &reporter{w: w, host: host, started: time.Now(), settings: w.cfg.settings()}
}

// settings are those that should be the same for all workers, by the names of their flags.
func (c Config) settings() map[string]string {
	return map[string]string{
		"koodrive-url":     c.KooDrive.BaseURL,
		"rate":             strconv.FormatFloat(c.Rate, 'g', -1, 64),
		"concurrency":      strconv.Itoa(c.Concurrency),
		"max-in-flight":    strconv.Itoa(c.MaxInFlight),
		"max-attempts":     strconv.Itoa(c.Policy.MaxAttempts),
		"max-crashes":      strconv.Itoa(c.MaxCrashes),
		"max-wait":         c.Policy.MaxWait.String(),
		"call-timeout":     c.KooDrive.CallTimeout.String(),
		"guard-after":      c.GuardAfter.String(),
		"ledger-keep":      c.LedgerKeep.String(),
		"keep":             c.HistoryKeep.String(),
		"no-history":       strconv.FormatBool(c.NoHistory),
		"webhook":          strconv.FormatBool(c.Webhook != nil),
		"shutdown-timeout": c.ShutdownTimeout.String(),
	}
}

// report returns the report of this moment. Only one goroutine calls it.
func (r *reporter) report() fleet.Report {
	now, s := time.Now(), r.w.gate.Status()
	stopped, untested := stoppedCalls(s)
	out := fleet.Report{
		Host: r.host, PID: os.Getpid(), Version: r.w.cfg.Version, StartedAt: r.started.UTC(), Settings: r.settings,
		Stopped: stopped, Untested: untested, InFlight: s.InFlight, Waiting: s.Waiting, Finished: r.w.metrics.finishedTasks(),
	}
	if err := r.w.clock.Check(context.Background()); err != nil {
		out.Problem = fmt.Sprintf("the clock: %v", err)
	}
	if seconds := now.Sub(r.at).Seconds(); !r.at.IsZero() && seconds > 0 {
		out.Calls, out.Refused = make(map[gate.Kind]float64), make(map[gate.Kind]float64)
		for kind, q := range s.Quotas {
			out.Calls[kind] = float64(q.Calls-r.last[kind].Calls) / seconds
			out.Refused[kind] = float64(q.OverQuota-r.last[kind].OverQuota) / seconds
		}
	}
	r.at, r.last = now, s.Quotas
	return out
}

// stoppedCalls returns the kinds of calls that are not made, in the order of gate.Kinds, and
// apart from them those of which that was long ago.
func stoppedCalls(s gate.Status) (stopped, untested []fleet.Stopped) {
	for _, kind := range gate.Kinds() {
		var found fleet.Stopped
		var isOld bool
		switch b, q := s.Breakers[kind], s.Quotas[kind]; {
		case b.State != gate.Closed:
			found, isOld = fleet.Stopped{Call: kind, Reason: b.Reason, Since: b.Since.UTC()}, b.Untested
		case q.Phase == quota.Closed:
			found, isOld = fleet.Stopped{Call: kind, Reason: tasks.Throttled}, q.Untested
		default:
			continue
		}
		if isOld {
			untested = append(untested, found)
		} else {
			stopped = append(stopped, found)
		}
	}
	return stopped, untested
}
