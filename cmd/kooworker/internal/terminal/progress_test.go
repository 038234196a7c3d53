package terminal

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vbauerster/mpb/v8"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wait waits inside a synctest bubble, where time passes at once.
func wait(d time.Duration) { <-time.After(d) }

// during calls do every half second and at the end. It never calls do when a line
// is due: the order of the two would be undefined.
func during(d time.Duration, do func(elapsed time.Duration)) {
	const step = 500 * time.Millisecond
	start := time.Now()
	for next := step / 2; next < d; next += step {
		wait(next - time.Since(start))
		do(next)
	}
	wait(d - time.Since(start))
	do(d)
}

func nothing(time.Duration) {}

func TestProgress_Lines(t *testing.T) {
	t.Parallel()
	steadily := func(p *Progress, perSecond float64) func(time.Duration) {
		return func(elapsed time.Duration) { p.Set(int64(perSecond * elapsed.Seconds())) }
	}
	for name, tc := range map[string]struct {
		o    ProgressOptions
		do   func(p *Progress)
		want []string
	}{
		"with a total": {ProgressOptions{Unit: "tasks", Total: 1_000_000}, func(p *Progress) {
			during(12500*time.Millisecond, steadily(p, 61_000))
		}, []string{
			"289750 of 1000000 tasks, 57950/s, 12 s left",
			"594750 of 1000000 tasks, 59475/s, 7 s left",
			"762500 of 1000000 tasks, 61000/s, in 12.5 s",
		}},
		"halted": {ProgressOptions{Unit: "tasks", Total: 1_000}, func(p *Progress) {
			during(9*time.Second, steadily(p, 10))
			p.Halt("Redis does not answer")
			wait(30 * time.Second)
			p.Set(300)
			p.Halt("")
			during(9*time.Second, func(elapsed time.Duration) { p.Set(300 + int64(20*elapsed.Seconds())) })
		}, []string{
			"47 of 1000 tasks, 9.4/s, 101 s left",
			"90 of 1000 tasks, Redis does not answer",
			"90 of 1000 tasks, Redis does not answer",
			"90 of 1000 tasks, Redis does not answer",
			"90 of 1000 tasks, Redis does not answer",
			"90 of 1000 tasks, Redis does not answer",
			"90 of 1000 tasks, Redis does not answer",
			"315 of 1000 tasks, 15/s, 46 s left",
			"415 of 1000 tasks, 19/s, 31 s left",
			"480 of 1000 tasks, 10/s, in 48.0 s",
		}},
		"with a share": {ProgressOptions{Unit: "lines", Every: 20 * time.Second}, func(p *Progress) {
			during(61*time.Second, func(elapsed time.Duration) {
				p.Set(int64(elapsed / time.Second))
				p.SetShare(elapsed.Seconds() / 1000)
			})
		}, []string{
			"19 lines, 2 %, 0.9/s, 16 min left",
			"39 lines, 4 %, 1.0/s, 16 min left",
			"59 lines, 6 %, 1.0/s, 15 min left",
			"61 lines, 1.0/s, in 61.0 s",
		}},
		"with neither": {ProgressOptions{Unit: "tasks", Every: 2 * time.Hour}, func(p *Progress) {
			during(150*time.Minute, steadily(p, 100))
			p.SetDetail("12 rejected")
		}, []string{
			"719975 tasks, 100/s, after 2 h 0 min",
			"900000 tasks, 100/s, in 9000.0 s, 12 rejected",
		}},
		"shorter than the first line": {ProgressOptions{Unit: "tasks", Total: 5}, func(p *Progress) {
			during(time.Second, steadily(p, 5))
		}, []string{"5 of 5 tasks, 5.0/s, in 1.0 s"}},
		"in no time": {ProgressOptions{Unit: "tasks", Total: 5}, func(p *Progress) { p.Set(5) }, []string{"5 of 5 tasks, in 0.0 s"}},
		"nothing":    {ProgressOptions{Unit: "tasks"}, func(*Progress) { during(4*time.Second, nothing) }, nil},
		"nothing for long": {ProgressOptions{Unit: "tasks"}, func(*Progress) { during(6*time.Second, nothing) }, []string{
			"0 tasks, 0.0/s, after 5 s", "0 tasks, 0.0/s, in 6.0 s",
		}},
		"that stalls": {ProgressOptions{Unit: "tasks", Total: 10_000}, func(p *Progress) {
			p.Set(1000)
			during(17*time.Second, nothing)
		}, []string{
			"1000 of 10000 tasks, 200/s, 45 s left", "1000 of 10000 tasks, 100/s, 90 s left", "1000 of 10000 tasks, 0.0/s",
			"1000 of 10000 tasks, 59/s, in 17.0 s",
		}},
		"that takes forever": {ProgressOptions{Unit: "tasks", Total: 1 << 60}, func(p *Progress) {
			during(6*time.Second, steadily(p, 1))
		}, []string{"4 of 1152921504606846976 tasks, 0.8/s", "6 of 1152921504606846976 tasks, 1.0/s, in 6.0 s"}},
		"that is resumed, and grows": {ProgressOptions{Unit: "tasks"}, func(p *Progress) {
			p.SetTotal(10_000)
			p.StartAt(9000)
			during(11*time.Second, func(elapsed time.Duration) {
				p.SetTotal(10_000 + 2*int64(elapsed.Seconds()))
				p.Set(9000 + int64(elapsed.Seconds())*10)
				p.SetShare(1) // is not used, since the total is known
			})
		}, []string{
			"9040 of 10008 tasks, 8.0/s, 2 min left", "9090 of 10018 tasks, 9.0/s, 103 s left", "9110 of 10022 tasks, 10/s, in 11.0 s",
		}},
		"with a speed that is possible": {ProgressOptions{Unit: "tasks", Total: 100_000}, func(p *Progress) {
			p.SetSpeed(200, 200)
			p.StartAt(10_000)
			during(7*time.Second, nothing) // no speed is measured yet
			during(19*time.Second, func(elapsed time.Duration) {
				p.Set(10_000 + int64(100*elapsed.Seconds())) // slower
			})
			p.SetSpeed(40, 50)
			during(5*time.Second, nothing)
		}, []string{
			"10000 of 100000 tasks, 0.0/s, 7 min left", "10275 of 100000 tasks, 28/s, 54 min left",
			"10775 of 100000 tasks, 78/s, 19 min left", "11275 of 100000 tasks, 100/s, 14 min left", "11775 of 100000 tasks, 100/s, 14 min left",
			"11900 of 100000 tasks, 62/s, 29 min left", "11900 of 100000 tasks, 61/s, in 31.0 s",
		}},
		"with a speed that is possible, and that stalls": {ProgressOptions{Unit: "tasks", Total: 1000}, func(p *Progress) {
			p.SetSpeed(200, 200)
			during(16*time.Second, nothing)
		}, []string{
			"0 of 1000 tasks, 0.0/s, 5 s left", "0 of 1000 tasks, 0.0/s", "0 of 1000 tasks, 0.0/s", "0 of 1000 tasks, 0.0/s, in 16.0 s",
		}},
		"with a speed to expect, and no other": {ProgressOptions{Unit: "tasks", Total: 100_000}, func(p *Progress) {
			p.SetSpeed(100, 0)
			during(7*time.Second, nothing) // no speed is measured yet
			during(6*time.Second, func(elapsed time.Duration) {
				p.Set(int64(1000 * elapsed.Seconds())) // faster
			})
		}, []string{
			"0 of 100000 tasks, 0.0/s, 16 min left", "2750 of 100000 tasks, 275/s, 5 min left", "6000 of 100000 tasks, 462/s, in 13.0 s",
		}},
		"that shrinks": {ProgressOptions{Unit: "tasks", Total: 100}, func(p *Progress) {
			p.StartAt(80)
			p.Set(60)
			during(6*time.Second, nothing)
		}, []string{"60 of 100 tasks, 0.0/s", "60 of 100 tasks, 0.0/s, in 6.0 s"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				p := StartProgress(&out, tc.o)
				tc.do(p)
				p.Finish()
				p.Finish()
				var got []string
				for line := range strings.Lines(out.String()) {
					got = append(got, strings.TrimSuffix(line, "\n"))
				}
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("lines (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestProgress_Bar(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := newProgress(ProgressOptions{Unit: "tasks"})
		p.drawBar(&out, mpb.WithAutoRefresh(), mpb.WithWidth(100)) // as on a terminal
		during(2*time.Second, func(elapsed time.Duration) {
			p.Set(int64(elapsed.Seconds() * 100))
			if elapsed == 1250*time.Millisecond {
				fmt.Fprintln(p, "above the bar")
				p.SetTotal(800)
				p.SetDetail("1 rejected")
			}
		})
		p.Set(400)
		p.Finish()
		p.Finish()
		fmt.Fprintln(p, "below the bar")
		frames := strings.Split(out.String(), "\x1b[1A\x1b[J") // up one line, and clear
		for _, want := range []string{
			"\r⠙ 25 tasks, 83/s, after 0 s\n",
			"\rabove the bar\n\r[===>------------------------] 125 of 800 tasks, 93/s, 7 s left, 1 rejected\n",
			"\r[=============>--------------] 400 of 800 tasks, 200/s, in 2.0 s, 1 rejected\n",
		} {
			if !slices.Contains(frames, want) {
				t.Errorf("frames %q; want one of them to be %q", frames, want)
			}
		}
		if !strings.HasSuffix(out.String(), " 1 rejected\nbelow the bar\n") {
			t.Errorf("the last frame is %q; want the line below the bar at its end", frames[len(frames)-1])
		}
	})
}

func TestProgress_ConcurrentUse(t *testing.T) {
	t.Parallel()
	p := StartProgress(&bytes.Buffer{}, ProgressOptions{Unit: "tasks", Every: time.Millisecond})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range int64(10_000) {
				p.Set(i)
				p.SetTotal(i)
				p.SetShare(float64(i) / 10_000)
				p.SetDetail("x")
				if i%1000 == 0 {
					p.StartAt(i)
					fmt.Fprintln(p, "line")
				}
			}
		})
	}
	wg.Wait()
	p.Finish()
}
