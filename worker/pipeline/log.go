package pipeline

import (
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/kooworker/kooworker/tasks"
)

// alarmEvery is how often a condition that affects every task is logged. A line for
// each task would flood the log.
const alarmEvery = 10 * time.Second

// attemptLog writes a line for each attempt. If the reason of an attempt affects
// every task alike, it writes an alarm now and then.
type attemptLog struct {
	log         *zap.Logger
	now         func() time.Time
	noSuccesses bool

	mu     sync.Mutex
	alarms map[tasks.Reason]*alarm
}

type alarm struct {
	last       time.Time
	suppressed int // attempts since the last alarm
}

func newAttemptLog(log *zap.Logger, now func() time.Time, noSuccesses bool) *attemptLog {
	return &attemptLog{log: log, now: now, noSuccesses: noSuccesses, alarms: make(map[tasks.Reason]*alarm)}
}

// alarmMessages are constant, so that people can search and alert for them.
var alarmMessages = map[tasks.Reason]string{
	tasks.Unauthorized: "KooDrive refuses the credential; tasks wait, none is charged",
	tasks.Misrouted:    "the answer is not KooDrive's; tasks wait, none is charged",
	tasks.Throttled:    "KooDrive throttles; tasks wait, none is charged",
	tasks.Network:      "KooDrive cannot be reached; tasks wait, none is charged",
	tasks.TimedOut:     "KooDrive does not answer; tasks wait, none is charged",
	tasks.Upstream:     "KooDrive is in trouble; tasks wait, none is charged",
}

// write writes the line of an attempt.
func (l *attemptLog) write(e Event, result Result) {
	decision := e.Decision
	if decision.Action == Complete && (l.noSuccesses && result.Succeeded() || !l.log.Core().Enabled(zap.InfoLevel)) {
		return
	}
	fields := append(e.Delivery.fields(e.Task),
		zap.Duration("took", e.Took),
		zap.Int("attempts", decision.Attempt),
	)
	switch {
	case decision.Outcome == tasks.Superseded:
		l.log.Info("superseded", append(fields, zap.String("detail", result.Detail))...)
	case decision.Outcome == tasks.Cancelled:
		l.log.Info("cancelled", append(fields, zap.String("detail", result.Detail))...)
	case decision.Action == Complete && decision.Outcome == tasks.AlreadyGone:
		l.log.Info("already gone", append(fields, zap.String("outcome", string(decision.Outcome)))...)
	case decision.Action == Complete:
		l.log.Info("succeeded", append(fields, zap.String("outcome", string(decision.Outcome)))...)
	case decision.Action == Park:
		l.log.Error("dead", append(fields, zap.String("reason", string(decision.Reason)), zap.String("error", decision.Error), zap.String("hint", result.Hint))...)
	case decision.CountsAsAttempt:
		l.log.Warn("failed, will be tried again", append(fields, zap.String("reason", string(decision.Reason)), zap.String("error", decision.Error),
			zap.Int("budget", decision.Budget), zap.Duration("delay", decision.Delay))...)
	default:
		l.log.Debug("put back uncharged", append(fields, zap.String("reason", string(decision.Reason)), zap.String("error", decision.Error), zap.Duration("delay", decision.Delay))...)
		if decision.Reason == result.Reason && result.Kind != IsSnooze && result.Kind != IsWait { // the gate or the job has logged why the task waits
			l.alarm(decision, result)
		}
	}
}

// alarm writes an alarm, at most every alarmEvery for each reason.
func (l *attemptLog) alarm(decision Decision, result Result) {
	message, ok := alarmMessages[decision.Reason]
	if !ok {
		return
	}
	l.mu.Lock()
	a := l.alarms[decision.Reason]
	if a == nil {
		a = &alarm{}
		l.alarms[decision.Reason] = a
	}
	now := l.now()
	if !a.last.IsZero() && now.Sub(a.last) < alarmEvery {
		a.suppressed++
		l.mu.Unlock()
		return
	}
	suppressed := a.suppressed
	a.last, a.suppressed = now, 0
	l.mu.Unlock()

	fields := []zap.Field{zap.String("reason", string(decision.Reason)), zap.String("error", decision.Error), zap.Int("since_last", suppressed+1)}
	if result.Hint != "" {
		fields = append(fields, zap.String("hint", result.Hint))
	}
	if decision.Reason == tasks.Throttled { // KooDrive's quota is used: nothing is wrong
		l.log.Info(message, fields...)
		return
	}
	l.log.Error(message, fields...)
}

func (l *attemptLog) panicked(task tasks.Task, x any, stack []byte) {
	l.log.Error("panic in a job", zap.String("task", tasks.Identity(task)),
		zap.String("panic", fmt.Sprintf("%.500v", x)), zap.ByteString("stack", stack))
}

func (l *attemptLog) storeFailed(message string, d Delivery, err error) {
	l.log.Error(message, append(d.fields(nil), zap.Error(err))...)
}

// fields are the log fields of a delivery. The payload is not logged: bytes that
// could not be decoded may hold a secret.
func (d Delivery) fields(task tasks.Task) []zap.Field {
	const most = 13 // with those that a line adds
	fields := append(make([]zap.Field, 0, most), zap.String("id", d.ID), zap.String("queue", d.Queue), zap.String("kind", string(d.Kind)))
	if task != nil {
		fields = append(fields, zap.String("user_id", task.User()), zap.String("target", task.Target()))
	}
	if d.TraceID != "" {
		fields = append(fields, zap.String("trace_id", d.TraceID))
	}
	if d.Replay {
		fields = append(fields, zap.Bool("replay", true))
	}
	return fields
}
