package koodrive

import (
	"net/http"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// timeline has a local clock, a local stopwatch, and servers whose clocks are some
// time off.
type timeline struct {
	elapsed time.Duration
	local   time.Time
}

var epoch = time.Date(2026, 1, 31, 9, 30, 0, 700e6, time.UTC)

func newTimeline() (*timeline, *serverClock) {
	tl := &timeline{local: epoch}
	return tl, &serverClock{
		now:     func() time.Time { return tl.local },
		elapsed: func() time.Duration { return tl.elapsed },
	}
}

func (tl *timeline) pass(d time.Duration) {
	tl.elapsed += d
	tl.local = tl.local.Add(d)
}

func (tl *timeline) server(off time.Duration) time.Time { return epoch.Add(tl.elapsed + off) }

// answer lets a server answer. Its Date is as old as the latency when it arrives.
func (tl *timeline) answer(c *serverClock, off, latency time.Duration, refused bool) {
	date := tl.server(off).UTC().Format(http.TimeFormat)
	tl.pass(latency)
	if e, ok := c.estimate(http.Header{"Date": {date}}); ok {
		c.learn(e, refused)
	}
}

func (tl *timeline) check(t *testing.T, c *serverClock, off, slack time.Duration) {
	t.Helper()
	behind := tl.server(off).Sub(c.date())
	if behind < time.Second || behind > slack {
		t.Errorf("X-Date is %s behind the server, want 1s to %s", behind, slack)
	}
}

func TestServerClock_NothingLearned(t *testing.T) {
	t.Parallel()
	tl, c := newTimeline()
	if got, want := c.date(), tl.local.Add(-2*time.Second); !got.Equal(want) {
		t.Errorf("got %s, want %s", got, want)
	}
	if _, ok := c.estimate(http.Header{"Date": {"now"}}); ok {
		t.Error("a malformed Date gave an estimate, want none")
	}
}

func TestServerClock_OneServer(t *testing.T) {
	t.Parallel()
	for _, off := range []time.Duration{-time.Hour, 0, time.Hour} {
		tl, c := newTimeline()
		tl.answer(c, off, 3*time.Second, false)
		tl.check(t, c, off, 5*time.Second) // 1 s on purpose, up to 1 s of rounding, 3 s of latency
		tl.pass(time.Hour)
		tl.check(t, c, off, 5*time.Second)
	}
}

func TestServerClock_SlowestOfSeveral(t *testing.T) {
	t.Parallel()
	tl, c := newTimeline()
	tl.answer(c, -40*time.Second, 0, false)
	for range 100 {
		tl.answer(c, 0, 10*time.Millisecond, false)
		tl.check(t, c, -40*time.Second, 2*time.Second)
	}
	// The slow server was taken out of service. It still counts in this span of
	// time and in the next.
	tl.pass(clockMemory)
	tl.answer(c, 0, 0, false)
	tl.check(t, c, -40*time.Second, 2*time.Second)
	tl.pass(clockMemory + time.Millisecond)
	tl.answer(c, 0, 0, false)
	tl.check(t, c, 0, 2*time.Second)
}

func TestServerClock_Refusal(t *testing.T) {
	t.Parallel()
	tl, c := newTimeline()
	tl.answer(c, -time.Hour, 0, false)
	tl.answer(c, 0, 0, true) // the server's clock was set forward
	tl.check(t, c, 0, 2*time.Second)
	tl.answer(c, -time.Hour, 0, true) // and back
	tl.check(t, c, -time.Hour, 2*time.Second)
}

func TestServerClock_StepOfTheLocalClock(t *testing.T) {
	t.Parallel()
	for _, step := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
		tl, c := newTimeline()
		tl.answer(c, 0, 0, false)
		tl.local = tl.local.Add(step)
		tl.check(t, c, 0, 2*time.Second)
	}
}

// X-Date is not ahead of any server that answered in the last five minutes.
func TestServerClock_NeverAhead(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		tl, c := newTimeline()
		offs := rapid.SliceOfN(rapid.Int64Range(-1e12, 1e12), 1, 4).Draw(t, "servers off by")
		seen := map[time.Duration]time.Duration{} // server to when it last answered
		for range rapid.IntRange(1, 200).Draw(t, "answers") {
			off := time.Duration(rapid.SampledFrom(offs).Draw(t, "server"))
			tl.pass(time.Duration(rapid.Int64Range(0, 20e9).Draw(t, "pause")))
			tl.answer(c, off, time.Duration(rapid.Int64Range(0, 5e9).Draw(t, "latency")), false)
			seen[off] = tl.elapsed
			for off, at := range seen {
				if ahead := c.date().Sub(tl.server(off)); tl.elapsed-at <= clockMemory && ahead > -time.Second {
					t.Fatalf("X-Date is %s ahead of a server, want it 1s behind", ahead)
				}
			}
		}
	})
}

func TestServerClock_ManyAnswers(t *testing.T) {
	t.Parallel()
	tl, c := newTimeline()
	for range 200_000 { // twenty minutes at 167 answers a second
		tl.answer(c, 0, 6*time.Millisecond, false)
		tl.check(t, c, 0, 2*time.Second+6*time.Millisecond)
	}
}

// The slowest server is forgotten when the second slowest still counts.
func TestServerClock_SecondSlowestServer(t *testing.T) {
	t.Parallel()
	tl, c := newTimeline()
	tl.answer(c, -40*time.Second, 0, false)
	tl.pass(clockMemory - time.Minute)
	tl.answer(c, -20*time.Second, 0, false)
	tl.pass(clockMemory - time.Minute)
	tl.answer(c, 0, 0, false)
	tl.check(t, c, -40*time.Second, 2*time.Second)
	tl.answer(c, -20*time.Second, 0, false)
	tl.pass(clockMemory + time.Millisecond)
	tl.answer(c, 0, 0, false)
	tl.check(t, c, -20*time.Second, 2*time.Second)
}
