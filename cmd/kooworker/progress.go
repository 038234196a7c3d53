package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// progressOptions are what newProgress has to know.
type progressOptions struct {
	// unit is what is counted, such as "tasks".
	unit string
	// total is how many there are; 0: nobody knows yet.
	total int64
	// every is the time between lines where there is no terminal; 0: 5 seconds.
	every time.Duration
}

// progress shows how far something is: a bar on a terminal, a line from time to
// time elsewhere. It is safe for concurrent use, and all but finish is cheap.
type progress struct {
	unit   string
	total  atomic.Int64
	done   atomic.Int64
	before atomic.Int64  // of done: what was not done here
	share  atomic.Uint64 // the bits of a float64; 0: not known
	suffix atomic.Value  // a string

	out  io.Writer // takes lines at any time
	end  func()    // shows the last state, and ends what shows
	once sync.Once // guards end

	mu      sync.Mutex // guards what follows
	started time.Time
	ended   time.Time // zero while it goes on
	counts  speed
	shares  speed
}

// newProgress shows the progress until finish is called.
func newProgress(out io.Writer, o progressOptions) *progress {
	p := beginProgress(o)
	if isTerminal(out) && os.Getenv("TERM") != "dumb" {
		p.drawBar(out)
	} else {
		p.writeLines(out, cmp.Or(o.every, 5*time.Second))
	}
	return p
}

func beginProgress(o progressOptions) *progress {
	p := &progress{unit: o.unit, started: time.Now()}
	p.total.Store(o.total)
	p.counts.add(p.started, 0)
	p.shares.add(p.started, 0)
	return p
}

// set tells how many are done. Who counts in several goroutines takes care that
// the last call has the last word.
func (p *progress) set(done int64) { p.done.Store(done) }

// startAt tells how many were done before. They are shown, and say nothing about
// how fast it goes.
func (p *progress) startAt(done int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.before.Store(done)
	p.done.Store(done)
	p.started = time.Now()
	p.counts = speed{}
	p.counts.add(p.started, float64(done))
}

// setTotal tells how many there are, which may change.
func (p *progress) setTotal(total int64) { p.total.Store(total) }

// setShare tells how much is done, from 0 to 1. It counts where the total is not
// known.
func (p *progress) setShare(share float64) { p.share.Store(math.Float64bits(share)) }

// detail sets what is said last, such as "12 rejected".
func (p *progress) detail(text string) { p.suffix.Store(text) }

// Write writes whole lines: above the bar, where there is one. What is written
// past it to the same place while the progress is shown gets into its way.
func (p *progress) Write(lines []byte) (int, error) { return p.out.Write(lines) }

// finish shows how far it has come, and that it goes no further. Only the first
// call counts.
func (p *progress) finish() {
	p.once.Do(func() {
		p.mu.Lock()
		p.ended = time.Now()
		p.mu.Unlock()
		p.end()
	})
}

// writeLines writes a line from time to time, and a last one, unless there is
// nothing to tell.
func (p *progress) writeLines(out io.Writer, every time.Duration) {
	p.out = &lineWriter{w: out}
	ending, ended := make(chan struct{}), make(chan struct{})
	told := false
	go func() {
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				say(p, "%s\n", p.line())
				told = true
			case <-ending:
				return
			}
		}
	}()
	p.end = func() {
		close(ending)
		<-ended
		if told || p.done.Load() != p.before.Load() {
			say(p, "%s\n", p.line())
		}
	}
}

// lineWriter keeps the lines of those who write apart.
type lineWriter struct {
	mu sync.Mutex
	w  io.Writer
}

// Write implements io.Writer.
func (l *lineWriter) Write(lines []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(lines)
}

// drawBar draws a bar where it is known how much there is to do, and a spinner
// where it is not. That may change, so mpb is not told: it draws what there is
// when it asks.
func (p *progress) drawBar(out io.Writer, more ...mpb.ContainerOption) {
	const width, parts = 30, 10_000
	bar, spinner := mpb.BarStyle().Build(), mpb.SpinnerStyle().Build()
	drawn := mpb.BarFillerFunc(func(w io.Writer, s decor.Statistics) error {
		share, known := p.fraction()
		if !known {
			s.RequestedWidth = 1
			return spinner.Fill(w, s)
		}
		s.RequestedWidth, s.Total, s.Current, s.Completed = width, parts, int64(share*parts), share == 1
		return bar.Fill(w, s)
	})
	text := decor.Any(func(decor.Statistics) string { return " " + p.line() })
	drawing := mpb.New(append(more, mpb.WithOutput(out))...)
	one := drawing.MustAdd(0, drawn, mpb.BarFillerTrim(), mpb.AppendDecorators(text))
	p.out = aboveBar{drawing, out}
	p.end = func() {
		one.Abort(false) // it stays as it is
		drawing.Wait()
	}
}

// aboveBar writes to a terminal that has a bar on it, or had.
type aboveBar struct {
	bar      *mpb.Progress
	terminal io.Writer
}

// Write implements io.Writer.
func (a aboveBar) Write(lines []byte) (int, error) {
	n, err := a.bar.Write(lines)
	if errors.Is(err, mpb.ErrDone) {
		return a.terminal.Write(lines)
	}
	return n, err
}

// fraction is how much is done, from 0 to 1.
func (p *progress) fraction() (share float64, known bool) {
	share = math.Float64frombits(p.share.Load())
	if total := p.total.Load(); total > 0 {
		share, known = float64(p.done.Load())/float64(total), true
	}
	return min(max(share, 0), 1), known || share > 0
}

// line is the progress in words, such as "120000 of 1000000 tasks, 61000/s,
// 14 s left".
func (p *progress) line() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	done, total := p.done.Load(), p.total.Load()
	count := fmt.Sprintf("%d %s", done, p.unit)
	if total > 0 {
		count = fmt.Sprintf("%d of %d %s", done, total, p.unit)
	}
	words := []string{count}
	if p.ended.IsZero() {
		words = append(words, p.pace(done, total)...)
	} else {
		words = append(words, p.average(done)...)
	}
	if suffix, _ := p.suffix.Load().(string); suffix != "" {
		words = append(words, suffix)
	}
	return strings.Join(words, ", ")
}

// foreseeable is the time, in seconds, beyond which no forecast is made.
const foreseeable = 1000 * 3600

// pace is how fast it goes just now, and when it will be done or, if nobody can
// know, how long it has taken.
func (p *progress) pace(done, total int64) []string {
	now := time.Now()
	rate := p.counts.add(now, float64(done))
	words := []string{perSecond(rate)}
	share, known := p.fraction()
	var left float64
	switch {
	case !known:
		return append(words, "after "+roughly(now.Sub(p.started).Seconds()))
	case total > 0:
		left = float64(total-done) / rate
	default:
		words = append([]string{fmt.Sprintf("%.0f %%", 100*share)}, words...)
		left = (1 - share) / p.shares.add(now, share)
	}
	if left > 0 && left < foreseeable { // nor where the rate is 0
		words = append(words, roughly(left)+" left")
	}
	return words
}

// average is how fast it went, and how long it took.
func (p *progress) average(done int64) (words []string) {
	took := p.ended.Sub(p.started).Seconds()
	if took > 0 {
		words = append(words, perSecond(max(0, float64(done-p.before.Load())/took)))
	}
	return append(words, fmt.Sprintf("in %.1f s", took))
}

func perSecond(rate float64) string {
	if rate < 10 {
		return fmt.Sprintf("%.1f/s", rate)
	}
	return fmt.Sprintf("%.0f/s", rate)
}

// roughly is a time as one would say it.
func roughly(seconds float64) string {
	s := int(math.Round(seconds))
	switch {
	case s < 120:
		return fmt.Sprintf("%d s", s)
	case s < 2*3600:
		return fmt.Sprintf("%d min", s/60)
	default:
		return fmt.Sprintf("%d h %d min", s/3600, s%3600/60)
	}
}

// speed is how fast a value grows, over a moving window.
type speed struct{ samples []sample }

type sample struct {
	at    time.Time
	value float64
}

const speedWindow = 10 * time.Second

// add takes a sample, and returns the growth in a second since the first one in
// the window: or since the last one before it, where they are rare.
func (s *speed) add(now time.Time, value float64) float64 {
	s.samples = append(s.samples, sample{now, value})
	for len(s.samples) > 2 && now.Sub(s.samples[1].at) >= speedWindow {
		s.samples = s.samples[1:]
	}
	from := s.samples[0]
	if took := now.Sub(from.at).Seconds(); took > 0 {
		return max(0, (value-from.value)/took)
	}
	return 0
}
