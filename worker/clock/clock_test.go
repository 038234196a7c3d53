package clock

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/kooworker/kooworker/internal/redistest"
)

// fakeRedis is a Redis whose clock is the right one, and takes time to answer.
type fakeRedis struct {
	there, back time.Duration // how long the question and the answer travel
	away        atomic.Bool   // it answers with an error
}

func (r *fakeRedis) Time(ctx context.Context) *redis.TimeCmd {
	cmd := redis.NewTimeCmd(ctx, "time")
	time.Sleep(r.there) //nolint:forbidigo // virtual time
	cmd.SetVal(time.Now())
	time.Sleep(r.back) //nolint:forbidigo // virtual time
	if r.away.Load() {
		cmd.SetErr(errors.New("away"))
	}
	return cmd
}

// newClock returns a clock over a fakeRedis, on a machine whose clock is ahead.
func newClock(ahead *atomic.Int64) (*Clock, *fakeRedis, *observer.ObservedLogs) {
	core, logs := observer.New(zap.InfoLevel)
	r := &fakeRedis{}
	c := New(r, zap.New(core))
	c.wall = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	return c, r, logs
}

func TestClock_WrongBeyondTheLimit(t *testing.T) {
	t.Parallel()
	for ahead, want := range map[time.Duration]string{
		0:                        "",
		4 * time.Second:          "",
		-4 * time.Second:         "",
		6 * time.Second:          "6s ahead of Redis' clock; want at most 5s",
		-10 * time.Minute:        "10m0s behind Redis' clock; want at most 5s",
		-1500 * 24 * time.Hour:   "36000h0m0s behind Redis' clock; want at most 5s",
		5500 * time.Millisecond:  "5.5s ahead of Redis' clock; want at most 5s",
		-5500 * time.Millisecond: "5.5s behind Redis' clock; want at most 5s",
	} {
		synctest.Test(t, func(t *testing.T) {
			var machine atomic.Int64
			machine.Store(int64(ahead))
			c, _, _ := newClock(&machine)
			if !c.Wrong() || c.Check(t.Context()) == nil {
				t.Error("right before it was compared; want wrong")
			}
			if err := c.Measure(t.Context()); err != nil {
				t.Fatal(err)
			}
			got := ""
			if err := c.Check(t.Context()); err != nil {
				got = err.Error()
			}
			if got != want || c.Wrong() != (want != "") {
				t.Errorf("%s ahead: %q, wrong: %v; want %q", ahead, got, c.Wrong(), want)
			}
		})
	}
}

// TestClock_RoundTrip does not take a slow answer for a wrong clock.
func TestClock_RoundTrip(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ahead atomic.Int64
		ahead.Store(int64(5500 * time.Millisecond))
		c, r, _ := newClock(&ahead)
		r.there, r.back = 1500*time.Millisecond, 0
		if err := c.Measure(t.Context()); err != nil || c.Wrong() {
			t.Errorf("give or take 750ms: wrong: %v, %v; want right", c.Wrong(), err)
		}
		ahead.Store(int64(time.Hour))
		if !c.Wrong() {
			t.Error("right after a jump; want wrong")
		}
		ahead.Store(0)
		r.there, r.back = 3*time.Second, 3*time.Second
		if err := c.Measure(t.Context()); err == nil {
			t.Error("learned something from an answer after 6s; want nothing")
		}
		r.there, r.back = 0, 0
		r.away.Store(true)
		if err := c.Measure(t.Context()); err == nil {
			t.Error("learned something without an answer; want nothing")
		}
	})
}

// TestClock_Jump sets the machine's clock while nobody measures.
func TestClock_Jump(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ahead atomic.Int64
		c, r, logs := newClock(&ahead)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); c.Run(ctx) }()
		wait := func(d time.Duration) {
			time.Sleep(d) //nolint:forbidigo // virtual time
			synctest.Wait()
		}
		wait(1500 * time.Millisecond)
		for _, jump := range []time.Duration{time.Minute, -time.Minute} {
			if c.Wrong() {
				t.Fatal("wrong before the jump; want right")
			}
			ahead.Store(int64(jump))
			if !c.Wrong() {
				t.Errorf("right after a jump of %s; want it to be noticed at once", jump)
			}
			wait(10 * time.Second)
			if !c.Wrong() {
				t.Errorf("right 10 s after a jump of %s; want wrong", jump)
			}
			ahead.Store(0)
			wait(2 * time.Second)
		}
		r.away.Store(true) // the last measurement holds
		wait(time.Hour)
		if c.Wrong() {
			t.Error("wrong without an answer; want it right as it was")
		}
		if wrong, right := logs.FilterMessageSnippet("is not Redis'").Len(), logs.FilterMessageSnippet("right again").Len(); wrong != 2 || right != 2 {
			t.Errorf("%d lines say that it is wrong, and %d that it is right; want 2 each", wrong, right)
		}
		cancel()
		<-done
	})
}

func TestClock_RealRedis(t *testing.T) {
	t.Parallel()
	c := New(redistest.Start(t).Client(), zap.NewNop())
	if err := c.Measure(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Check(t.Context()); err != nil {
		t.Errorf("%v; want this machine's clock to be this machine's clock", err)
	}
}
