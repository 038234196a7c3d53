package main

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vbauerster/mpb/v8"
)

// during calls something every half a second, and at the end: never when a line
// is due, as nobody could say then which is first.
func during(d time.Duration, do func(elapsed time.Duration)) {
	const step = 500 * time.Millisecond
	start := time.Now()
	for next := step / 2; next < d; next += step {
		elapse(next - time.Since(start))
		do(next)
	}
	elapse(d - time.Since(start))
	do(d)
}

func nothing(time.Duration) {}

func TestProgressWritesALineFromTimeToTime(t *testing.T) {
	t.Parallel()
	steadily := func(p *progress, perSecond float64) func(time.Duration) {
		return func(elapsed time.Duration) { p.set(int64(perSecond * elapsed.Seconds())) }
	}
	for name, tc := range map[string]struct {
		o    progressOptions
		do   func(p *progress)
		want []string
	}{
		"with a total": {progressOptions{unit: "tasks", total: 1_000_000}, func(p *progress) {
			during(12500*time.Millisecond, steadily(p, 61_000))
		}, []string{
			"289750 of 1000000 tasks, 57950/s, 12 s left",
			"594750 of 1000000 tasks, 59475/s, 7 s left",
			"762500 of 1000000 tasks, 61000/s, in 12.5 s",
		}},
		"with a share": {progressOptions{unit: "lines", every: 20 * time.Second}, func(p *progress) {
			during(61*time.Second, func(elapsed time.Duration) {
				p.set(int64(elapsed / time.Second))
				p.setShare(elapsed.Seconds() / 1000)
			})
		}, []string{
			"19 lines, 2 %, 0.9/s, 16 min left",
			"39 lines, 4 %, 1.0/s, 16 min left",
			"59 lines, 6 %, 1.0/s, 15 min left",
			"61 lines, 1.0/s, in 61.0 s",
		}},
		"with neither": {progressOptions{unit: "tasks", every: 2 * time.Hour}, func(p *progress) {
			during(150*time.Minute, steadily(p, 100))
			p.detail("12 rejected")
		}, []string{
			"719975 tasks, 100/s, after 2 h 0 min",
			"900000 tasks, 100/s, in 9000.0 s, 12 rejected",
		}},
		"shorter than the first line": {progressOptions{unit: "tasks", total: 5}, func(p *progress) {
			during(time.Second, steadily(p, 5))
		}, []string{"5 of 5 tasks, 5.0/s, in 1.0 s"}},
		"in no time": {progressOptions{unit: "tasks", total: 5}, func(p *progress) { p.set(5) }, []string{"5 of 5 tasks, in 0.0 s"}},
		"nothing":    {progressOptions{unit: "tasks"}, func(*progress) { during(4*time.Second, nothing) }, nil},
		"nothing for long": {progressOptions{unit: "tasks"}, func(*progress) { during(6*time.Second, nothing) }, []string{
			"0 tasks, 0.0/s, after 5 s", "0 tasks, 0.0/s, in 6.0 s",
		}},
		"that stalls": {progressOptions{unit: "tasks", total: 10_000}, func(p *progress) {
			p.set(1000)
			during(17*time.Second, nothing)
		}, []string{
			"1000 of 10000 tasks, 200/s, 45 s left", "1000 of 10000 tasks, 100/s, 90 s left", "1000 of 10000 tasks, 0.0/s",
			"1000 of 10000 tasks, 59/s, in 17.0 s",
		}},
		"that takes forever": {progressOptions{unit: "tasks", total: 1 << 60}, func(p *progress) {
			during(6*time.Second, steadily(p, 1))
		}, []string{"4 of 1152921504606846976 tasks, 0.8/s", "6 of 1152921504606846976 tasks, 1.0/s, in 6.0 s"}},
		"that goes on, and grows": {progressOptions{unit: "tasks"}, func(p *progress) {
			p.setTotal(10_000)
			p.startAt(9000)
			during(11*time.Second, func(elapsed time.Duration) {
				p.setTotal(10_000 + 2*int64(elapsed.Seconds()))
				p.set(9000 + int64(elapsed.Seconds())*10)
				p.setShare(1) // of what, is not asked
			})
		}, []string{
			"9040 of 10008 tasks, 8.0/s, 2 min left", "9090 of 10018 tasks, 9.0/s, 103 s left", "9110 of 10022 tasks, 10/s, in 11.0 s",
		}},
		"that shrinks": {progressOptions{unit: "tasks", total: 100}, func(p *progress) {
			p.startAt(80)
			p.set(60)
			during(6*time.Second, nothing)
		}, []string{"60 of 100 tasks, 0.0/s", "60 of 100 tasks, 0.0/s, in 6.0 s"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				p := newProgress(&out, tc.o)
				tc.do(p)
				p.finish()
				p.finish()
				var got []string
				for line := range strings.Lines(out.String()) {
					got = append(got, strings.TrimSuffix(line, "\n"))
				}
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestProgressDrawsABar(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := beginProgress(progressOptions{unit: "tasks"})
		p.drawBar(&out, mpb.WithAutoRefresh(), mpb.WithWidth(100)) // as on a terminal
		during(2*time.Second, func(elapsed time.Duration) {
			p.set(int64(elapsed.Seconds() * 100))
			if elapsed == 1250*time.Millisecond {
				say(p, "above the bar\n")
				p.setTotal(800)
				p.detail("1 rejected")
			}
		})
		p.set(400)
		p.finish()
		p.finish()
		say(p, "below the bar\n")
		frames := strings.Split(out.String(), "\x1b[1A\x1b[J") // up, and clear
		for _, want := range []string{
			"⠙ 25 tasks, 83/s, after 0 s\n",
			"above the bar\n[===>------------------------] 125 of 800 tasks, 93/s, 7 s left, 1 rejected\n",
			"[=============>--------------] 400 of 800 tasks, 200/s, in 2.0 s, 1 rejected\n",
		} {
			if !slices.Contains(frames, want) {
				t.Errorf("no %q in %q", want, frames)
			}
		}
		if !strings.HasSuffix(out.String(), " 1 rejected\nbelow the bar\n") {
			t.Errorf("ends with %q", frames[len(frames)-1])
		}
	})
}

func TestProgressIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	p := newProgress(&bytes.Buffer{}, progressOptions{unit: "tasks", every: time.Millisecond})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range int64(10_000) {
				p.set(i)
				p.setTotal(i)
				p.setShare(float64(i) / 10_000)
				p.detail("x")
				if i%1000 == 0 {
					p.startAt(i)
					say(p, "line\n")
				}
			}
		})
	}
	wg.Wait()
	p.finish()
}
