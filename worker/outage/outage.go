// Package outage writes two log lines about an outage of Redis instead of hundreds: one
// when Redis goes, and one when it is back. What others would log about the same outage
// is held back and counted.
//
// Package worker makes a [Watch], and gives its loggers to all parts that talk to Redis.
// The scheduler command does so too. The package imports internal/asynqx, which knows
// the errors of Redis, and must not import its siblings below worker.
//
// # What is held back
//
// A part that talks to Redis logs to [Watch.Logger]. A line is about Redis if it has an
// error for which asynqx.IsUnavailable holds: no connection, no answer, or an answer such
// as LOADING, READONLY or OOM, which has nothing to do with the call. asynq and go-redis
// log to [Watch.Library], where every warning and error is about Redis. All other lines are
// written at once, whatever Redis does.
//
// While Redis answers, nothing is asked and nothing costs anything. The first line about
// Redis waits until Redis was asked. If Redis answers, the line is written: it is about
// something else, such as one connection that broke. If Redis does not answer, the outage
// has begun, and that line is the first one that is held back.
//
// Lines of level error name something that an operator may have to look into, such as the ID
// of a task whose outcome could not be stored. In each outage the first line with the same
// message is written. Further ones are counted, and the end of the outage writes the number.
//
// # What counts as an answer
//
// Redis is asked with a write that changes nothing, because a Redis that is full, read-only
// or loading does answer a PING. In a cluster each master is asked, so one that is away makes
// an outage, though the others go on.
//
// An outage ends when Redis has answered for a second. If outages follow each other within a
// minute, as with a Redis that is almost full, it has to answer for longer each time, up to a
// minute. So trouble that comes and goes does not fill the log either.
//
// For some seconds after the end there are calls that had begun before it. What they log is
// held back as well, and a last line says how much that was.
package outage

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Times of a Watch.
const (
	askTimeout   = 2 * time.Second        // of one question
	askEvery     = 500 * time.Millisecond // while Redis is away
	firstRemind  = 10 * time.Second       // after the beginning; the next one takes twice as long
	maxRemind    = time.Minute
	minSteady    = time.Second // how long Redis must have answered
	maxSteady    = time.Minute
	flapsWithin  = time.Minute      // between two outages that belong together
	aftermath    = 10 * time.Second // how long calls from before the end may fail
	maxUncertain = 1000             // lines that wait for an answer
)

// Watch knows whether Redis answers. Make one with New, and Run it. It is safe for
// concurrent use.
type Watch struct {
	log *zap.Logger
	ask func(ctx context.Context) error
	// suspected wakes Run: a line about Redis waits.
	suspected chan struct{}

	mu        sync.Mutex
	phase     phase
	uncertain []line
	held      int            // lines held back since the outage began, or since its end
	repeated  map[string]int // errors of one outage by message: how many were not written
}

// phase is what a Watch does with lines about Redis.
type phase int

const (
	notRunning phase = iota // writes them
	calm                    // keeps them until Redis was asked
	away                    // holds them back
	after                   // holds them back, and asks Redis
)

// line is a log line that waits.
type line struct {
	core   zapcore.Core
	entry  zapcore.Entry
	fields []zapcore.Field
}

func (l line) write() {
	if checked := l.core.Check(l.entry, nil); checked != nil {
		checked.Write(l.fields...)
	}
}

// New returns a Watch over a Redis. Keys are names that never exist: one in each hash slot
// that matters, so that each master of a cluster that has one of them is asked. Until Run
// is called, all lines are written.
func New(rdb redis.UniversalClient, keys []string, log *zap.Logger) *Watch {
	return newWatch(func(ctx context.Context) error { return Ask(ctx, rdb, keys) }, log)
}

func newWatch(ask func(ctx context.Context) error, log *zap.Logger) *Watch {
	return &Watch{log: log, ask: ask, suspected: make(chan struct{}, 1), repeated: make(map[string]int)}
}

// Run watches until ctx ends. Lines about Redis that come later are held back if Redis is
// away then, and written otherwise.
func (w *Watch) Run(ctx context.Context) {
	w.enter(calm)
	defer w.end()
	var ended time.Time // the last outage
	steady := minSteady
	for {
		timer := time.NewTimer(time.Until(ended.Add(aftermath)))
		if w.current() != after {
			timer.Stop()
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			w.closeAftermath()
		case <-w.suspected:
			timer.Stop()
			since := time.Now()
			err := w.tryOnce(ctx)
			if ctx.Err() != nil {
				return
			}
			if err == nil {
				w.acquit()
				continue
			}
			if steady = min(2*steady, maxSteady); since.Sub(ended) > flapsWithin {
				steady = minSteady
			}
			if !w.outage(ctx, since, steady, err) {
				return
			}
			ended = time.Now()
		}
	}
}

// outage lasts until Redis has answered for so long. It returns false if ctx ends before.
func (w *Watch) outage(ctx context.Context, since time.Time, steady time.Duration, err error) (isOver bool) {
	w.begin(err)
	remindAt, pause := since.Add(firstRemind), firstRemind
	var answers time.Time // since when Redis answers again; zero if it does not
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
		err := w.tryOnce(ctx)
		now := time.Now()
		switch {
		case ctx.Err() != nil:
			return false
		case err != nil:
			answers = time.Time{}
			if !now.Before(remindAt) {
				pause = min(2*pause, maxRemind)
				remindAt = now.Add(pause)
				w.remind(now.Sub(since), err)
			}
		case answers.IsZero():
			answers = now
		}
		if !answers.IsZero() && now.Sub(answers) >= steady {
			w.isBack(answers.Sub(since))
			return true
		}
	}
}

// tryOnce asks Redis. It returns nil if Redis answers.
func (w *Watch) tryOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return w.ask(ctx)
}

func (w *Watch) enter(p phase) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.phase = p
}

func (w *Watch) current() phase {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.phase
}
