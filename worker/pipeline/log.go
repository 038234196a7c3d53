package pipeline

import (
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/kooworker/kooworker/tasks"
)

// alarmEvery is how often a condition that hits every task is spelled out. A
// line per task would drown it.
const alarmEvery = 10 * time.Second

// attemptLog writes the log: a line per attempt that says something about its
// task, and an alarm now and then for what says something about the world.
type attemptLog struct {
	log *zap.Logger
	now func() time.Time

	mu     sync.Mutex
	alarms map[tasks.Reason]*alarm
}

type alarm struct {
	last   time.Time
	suppressed int // attempts since, that were not spelled out
}

func newAttemptLog(log *zap.Logger, now func() time.Time) *attemptLog {
	return &attemptLog{log: log, now: now, alarms: make(map[tasks.Reason]*alarm)}
}

// alarmMessages are fixed, so that they can be searched for and alerted on.
var alarmMessages = map[tasks.Reason]string{
	tasks.Unauthorized: "KooDrive refuses the credential; tasks wait, none is charged",
	tasks.Misrouted:    "the answer is not KooDrive's; tasks wait, none is charged",
	tasks.Throttled:    "KooDrive throttles; tasks wait, none is charged",
	tasks.Network:      "KooDrive cannot be reached; tasks wait, none is charged",
	tasks.TimedOut:     "KooDrive does not answer; tasks wait, none is charged",
	tasks.Upstream:     "KooDrive is in trouble; tasks wait, none is charged",
}

func (j *attemptLog) record(e Event, answer Answer) {
	v := e.Decision
	fields := append(e.Delivery.fields(e.Task),
		zap.Duration("took", e.Took),
		zap.Int("attempts", v.Attempt),
	)
	switch {
	case v.Outcome == tasks.Superseded:
		j.log.Info("superseded", append(fields, zap.String("detail", answer.Message))...)
	case v.Action == Complete && v.Outcome == tasks.AlreadyGone:
		j.log.Info("already gone", append(fields, zap.String("outcome", string(v.Outcome)))...)
	case v.Action == Complete:
		j.log.Info("succeeded", append(fields, zap.String("outcome", string(v.Outcome)))...)
	case v.Action == Park:
		j.log.Error("dead", append(fields, zap.String("reason", string(v.Reason)), zap.String("error", v.Error), zap.String("hint", answer.Hint))...)
	case v.CountsAsAttempt:
		j.log.Warn("failed, will be tried again", append(fields, zap.String("reason", string(v.Reason)), zap.String("error", v.Error),
			zap.Int("budget", v.Budget), zap.Duration("delay", v.Delay))...)
	default:
		j.log.Debug("put back uncharged", append(fields, zap.String("reason", string(v.Reason)), zap.String("error", v.Error), zap.Duration("delay", v.Delay))...)
		if !answer.Uncalled { // what holds calls back has said so by itself
			j.alarm(v, answer)
		}
	}
}

// alarm spells an alarm out, at most every alarmEvery for each reason.
func (j *attemptLog) alarm(v Decision, answer Answer) {
	headline, ok := alarmMessages[v.Reason]
	if !ok {
		return
	}
	j.mu.Lock()
	a := j.alarms[v.Reason]
	if a == nil {
		a = &alarm{}
		j.alarms[v.Reason] = a
	}
	now := j.now()
	if !a.last.IsZero() && now.Sub(a.last) < alarmEvery {
		a.suppressed++
		j.mu.Unlock()
		return
	}
	silent := a.suppressed
	a.last, a.suppressed = now, 0
	j.mu.Unlock()

	fields := []zap.Field{zap.String("reason", string(v.Reason)), zap.String("error", v.Error), zap.Int("since_last", silent+1)}
	if answer.Hint != "" {
		fields = append(fields, zap.String("hint", answer.Hint))
	}
	if v.Reason == tasks.Throttled {
		j.log.Warn(headline, fields...)
		return
	}
	j.log.Error(headline, fields...)
}

func (j *attemptLog) panicked(task tasks.Task, x any, stack []byte) {
	j.log.Error("panic while a task was carried out", zap.String("task", tasks.Identity(task)),
		zap.String("panic", fmt.Sprintf("%.500v", x)), zap.ByteString("stack", stack))
}

func (j *attemptLog) logStoreError(headline string, d Delivery, err error) {
	j.log.Error(headline, append(d.fields(nil), zap.Error(err))...)
}

// fields names a delivery in a log line. The payload is not logged: what could
// not be decoded may hold anything.
func (d Delivery) fields(task tasks.Task) []zap.Field {
	fields := []zap.Field{zap.String("id", d.ID), zap.String("queue", d.Queue), zap.String("kind", string(d.Kind))}
	if task != nil {
		fields = append(fields, zap.String("user_id", task.User()), zap.String("target", task.Target()))
	}
	if d.Replay {
		fields = append(fields, zap.Bool("replay", true))
	}
	return fields
}
