package outage

import (
	"slices"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/kooworker/kooworker/internal/asynqx"
)

// The messages are constant, so that people can search and alert for them.
const (
	msgGone   = "Redis does not answer or cannot serve: tasks wait, none is charged"
	msgStill  = "Redis is still away: tasks wait"
	msgBack   = "Redis is back: tasks go on"
	msgAfter  = "calls that had begun before Redis was back have failed as well"
	msgEnding = "stopping while Redis is away"
)

// Logger returns a logger for what talks to Redis. Lines with an error that is about Redis
// are held back while Redis is away.
func (w *Watch) Logger() *zap.Logger { return w.wrap(w.log, isAboutRedis) }

// Library returns a logger for asynq and go-redis, which say in plain text that Redis fails.
// All their warnings and errors are about Redis. Lines with the same text are sampled.
func (w *Watch) Library() *zap.Logger {
	// What is written all the same need not be looked into: the task runs again.
	return w.wrap(asynqx.Sampled(w.log), func(e *zapcore.Entry, _ []zapcore.Field) bool {
		about := e.Level >= zapcore.WarnLevel
		e.Level = min(e.Level, zapcore.WarnLevel)
		return about
	})
}

func (w *Watch) wrap(log *zap.Logger, isAbout func(*zapcore.Entry, []zapcore.Field) bool) *zap.Logger {
	return log.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core { return &core{Core: c, watch: w, isAbout: isAbout} }))
}

func isAboutRedis(_ *zapcore.Entry, fields []zapcore.Field) bool {
	return slices.ContainsFunc(fields, func(f zapcore.Field) bool {
		err, ok := f.Interface.(error)
		return ok && f.Type == zapcore.ErrorType && asynqx.IsUnavailable(err)
	})
}

// core holds back what is about Redis.
type core struct {
	zapcore.Core
	watch   *Watch
	isAbout func(*zapcore.Entry, []zapcore.Field) bool // it may lower the level
}

var _ zapcore.Core = (*core)(nil)

// With implements zapcore.Core.
func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{Core: c.Core.With(fields), watch: c.watch, isAbout: c.isAbout}
}

// Check implements zapcore.Core. What samples comes after Write.
func (c *core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write implements zapcore.Core.
func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	l := line{core: c.Core, entry: e, fields: fields}
	if !c.isAbout(&l.entry, fields) || c.watch.pass(l) {
		l.write()
	}
	return nil
}

// pass reports whether a line about Redis is to be written now.
func (w *Watch) pass(l line) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch w.phase {
	case notRunning:
		return true
	case away:
		return !w.hold(l)
	case calm, after:
	}
	select {
	case w.suspected <- struct{}{}:
	default:
	}
	if len(w.uncertain) >= maxUncertain {
		w.held++
		return false
	}
	l.fields = slices.Clone(l.fields)
	w.uncertain = append(w.uncertain, l)
	return false
}

// hold holds a line back, unless it is the first error with its message in this outage. The
// caller holds the lock.
func (w *Watch) hold(l line) bool {
	if l.entry.Level >= zapcore.ErrorLevel {
		if _, wasWritten := w.repeated[l.entry.Message]; !wasWritten {
			w.repeated[l.entry.Message] = 0
			return false
		}
		w.repeated[l.entry.Message]++
	}
	w.held++
	return true
}

// take empties the lines that waited for an answer. The caller holds the lock.
func (w *Watch) take() []line {
	lines := w.uncertain
	w.uncertain = nil
	return lines
}

// acquit writes the lines that waited: Redis answers. If an outage has just ended, they are
// its remains.
func (w *Watch) acquit() {
	w.mu.Lock()
	lines := w.take()
	if w.phase == after {
		lines = slices.DeleteFunc(lines, w.hold)
	}
	w.mu.Unlock()
	for _, l := range lines {
		l.write()
	}
}

// begin writes that Redis is away.
func (w *Watch) begin(err error) {
	w.mu.Lock()
	w.phase = away
	lines := slices.DeleteFunc(w.take(), w.hold)
	w.mu.Unlock()
	w.log.Error(msgGone, zap.String("error", reason(err)), zap.String("hint", Hint(err)))
	for _, l := range lines {
		l.write()
	}
}

func (w *Watch) remind(since time.Duration, err error) {
	w.mu.Lock()
	held := w.held
	w.mu.Unlock()
	w.log.Error(msgStill, awayFor(since), zap.String("error", reason(err)), zap.Int("lines_held_back", held))
}

// isBack writes that Redis answers again.
func (w *Watch) isBack(since time.Duration) {
	w.mu.Lock()
	w.phase = after
	held, repeated := w.counts()
	w.mu.Unlock()
	w.log.Info(msgBack, awayFor(since), zap.Int("lines_held_back", held))
	w.writeRepeated(repeated)
}

// closeAftermath ends the time in which calls from before the end may fail.
func (w *Watch) closeAftermath() {
	w.mu.Lock()
	lines := slices.DeleteFunc(w.take(), w.hold)
	w.phase = calm
	held, repeated := w.counts()
	w.mu.Unlock()
	for _, l := range lines {
		l.write()
	}
	if held > 0 {
		w.log.Info(msgAfter, zap.Int("lines_held_back", held))
	}
	w.writeRepeated(repeated)
}

// end is the end of Run.
func (w *Watch) end() {
	w.mu.Lock()
	lines, wasAway := w.take(), w.phase == away
	if wasAway || w.phase == after {
		lines = slices.DeleteFunc(lines, w.hold)
	}
	if !wasAway {
		w.phase = notRunning
	}
	held, repeated := w.counts()
	w.mu.Unlock()
	for _, l := range lines {
		l.write()
	}
	if wasAway {
		w.log.Warn(msgEnding, zap.Int("lines_held_back", held))
	} else if held > 0 {
		w.log.Info(msgAfter, zap.Int("lines_held_back", held))
	}
	w.writeRepeated(repeated)
}

// counts returns what was held back, and begins to count anew. The caller holds the lock.
func (w *Watch) counts() (held int, repeated map[string]int) {
	held, repeated = w.held, w.repeated
	w.held, w.repeated = 0, make(map[string]int)
	return held, repeated
}

// writeRepeated writes how many errors were not written, by message.
func (w *Watch) writeRepeated(repeated map[string]int) {
	for message, n := range repeated {
		if n > 0 {
			w.log.Warn("in this outage, further times: "+message, zap.Int("times", n))
		}
	}
}

func awayFor(since time.Duration) zap.Field {
	return zap.Duration("away", since.Round(100*time.Millisecond))
}
