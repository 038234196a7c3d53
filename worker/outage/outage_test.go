package outage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bundle is a Watch over a Redis that answers as the test says.
type bundle struct {
	*Watch
	away  atomic.Bool
	asked atomic.Int64
	logs  *observer.ObservedLogs
	stop  func() // ends Run
}

// setup must run in a bubble of synctest.
func setup(t *testing.T) *bundle {
	t.Helper()
	core, logs := observer.New(zap.InfoLevel)
	b := &bundle{logs: logs}
	b.Watch = newWatch(func(context.Context) error {
		b.asked.Add(1)
		if b.away.Load() {
			return errors.New("connection refused")
		}
		return nil
	}, zap.New(core))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); b.Run(ctx) }()
	b.stop = func() { cancel(); <-ended }
	t.Cleanup(b.stop)
	synctest.Wait()
	return b
}

// pass lets time pass, in which a part logs a line about Redis every second if it is away.
// It is a little more than a second, so that no line comes at the moment of a question.
func (b *bundle) pass(d time.Duration) {
	for range int(d / time.Second) {
		if b.away.Load() {
			b.Logger().Warn("cannot read", zap.Error(io.EOF))
		}
		<-time.After(time.Second + time.Millisecond)
	}
	synctest.Wait()
}

// written returns what was written, and forgets it.
func (b *bundle) written() (lines []string) {
	for _, entry := range b.logs.TakeAll() {
		line := entry.Level.String() + " " + entry.Message
		for _, name := range []string{"away", "lines_held_back", "times", "id"} {
			if value, ok := entry.ContextMap()[name]; ok {
				line += fmt.Sprintf(" %s=%v", name, value)
			}
		}
		lines = append(lines, line)
	}
	return lines
}

func (b *bundle) want(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	if got := b.written(); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("wrote\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestWatch_OneLineAtEachEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t)
		b.away.Store(true)
		b.pass(31 * time.Second)
		b.away.Store(false)
		b.pass(20 * time.Second)
		b.want(t,
			"error "+msgGone,
			"error "+msgStill+" away=10s lines_held_back=10",
			"error "+msgStill+" away=30s lines_held_back=30",
			"info "+msgBack+" away=31.5s lines_held_back=31",
		)
	})
}

func TestWatch_LinesWhileRedisAnswersAreWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t)
		b.pass(time.Hour)
		if n := b.asked.Load(); n != 0 {
			t.Errorf("asked %d times in an hour without trouble; want never", n)
		}
		b.Logger().With(zap.String("id", "x")).Named("fetch").Warn("one connection broke", zap.Error(io.EOF))
		b.Library().Error("one script failed")
		b.want(t, "warn one connection broke id=x", "warn one script failed")
	})
}

func TestWatch_OnlyLinesAboutRedisAreHeldBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t)
		b.away.Store(true)
		b.pass(time.Second)
		b.written()
		b.Logger().Info("KooDrive can be used again")
		b.Logger().Error("dead", zap.String("error", "EOF"))
		b.Logger().Warn("wrong answer", zap.Error(errors.New("WRONGTYPE")))
		b.Library().Info("Starting processing")
		b.want(t, "info KooDrive can be used again", "error dead", "warn wrong answer", "info Starting processing")
	})
}

// What an operator may have to look into is written once, with its ID, and then counted.
func TestWatch_FirstErrorIsWrittenAndFurtherOnesCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t)
		b.away.Store(true)
		for i := range 40 {
			b.Logger().Error("its receipt cannot be written", zap.Error(io.EOF), zap.Int("id", i))
		}
		b.Logger().Error("not parked", zap.Error(io.EOF), zap.Int("id", 7))
		b.want(t, "error "+msgGone, "error its receipt cannot be written id=0", "error not parked id=7")
		b.Logger().Error("its receipt cannot be written", zap.Error(io.EOF), zap.Int("id", 40))
		b.away.Store(false)
		b.pass(3 * time.Second)
		b.want(t, "info "+msgBack+" away=500ms lines_held_back=40", "warn in this outage, further times: its receipt cannot be written times=40")
	})
}

// Calls that had begun before the end fail after it.
func TestWatch_Aftermath(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t)
		b.away.Store(true)
		b.pass(2 * time.Second)
		b.away.Store(false)
		b.pass(3 * time.Second)
		b.want(t, "error "+msgGone, "info "+msgBack+" away=2.5s lines_held_back=2")
		for range 5 {
			b.Library().Error("Could not move task")
			synctest.Wait()
		}
		b.pass(aftermath)
		b.want(t, "info "+msgAfter+" lines_held_back=5")
		b.Library().Error("Could not move task")
		b.want(t, "warn Could not move task")
	})
}

// A Redis that is almost full refuses now and then.
func TestWatch_ComesAndGoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t)
		for range 200 {
			b.away.Store(true)
			b.pass(4 * time.Second)
			b.away.Store(false)
			b.pass(5 * time.Second)
		}
		if got := b.written(); len(got) > 50 {
			t.Errorf("%d lines in 30 minutes; want at most 50:\n%s", len(got), strings.Join(got, "\n"))
		}
	})
}

func TestWatch_StopsWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t)
		b.away.Store(true)
		b.pass(5 * time.Second)
		b.stop()
		b.Logger().Warn("cannot say goodbye", zap.Error(io.EOF))
		b.want(t, "error "+msgGone, "warn "+msgEnding+" lines_held_back=5")
	})
}

// Nothing that waits for an answer is lost if the worker stops meanwhile.
func TestWatch_StopsWhileRedisIsAsked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		w := newWatch(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, zap.New(core))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); w.Run(ctx) }()
		synctest.Wait()
		w.Logger().Warn("cannot read", zap.Error(io.EOF))
		synctest.Wait()
		if logs.Len() != 0 {
			t.Errorf("%v; want nothing before the answer", logs.All())
		}
		cancel()
		<-ended
		w.Logger().Warn("cannot read this either", zap.Error(io.EOF))
		if logs.Len() != 2 {
			t.Errorf("%v; want both lines", logs.All())
		}
	})
}
