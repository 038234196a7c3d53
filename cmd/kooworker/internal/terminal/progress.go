package terminal

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"go.uber.org/zap/zapcore"

	"github.com/kooworker/kooworker/internal/humanize"
)

// ProgressOptions configure a Progress.
type ProgressOptions struct {
	Unit  string        // what is counted, such as "tasks"
	Total int64         // how many there are; 0: not known yet
	Every time.Duration // time between lines where there is no terminal; default: 5 seconds
}

// Progress shows how much of a job is done: as a bar on a terminal, and as a line
// from time to time elsewhere. It is safe for concurrent use. All methods but
// Finish are cheap.
type Progress struct {
	unit string
	out  io.Writer
	bar  *mpb.Progress // nil: there is no bar
	end  func()        // shows the last state, and stops the display
	once sync.Once     // guards end

	mu       sync.Mutex // guards the fields below
	total    int64      // 0: not known
	done     int64
	before   int64   // the part of done that an earlier run did
	share    float64 // the done share of the job, 0 to 1; 0: not known
	foreseen float64 // the speed to expect before one is measured, per second; 0: not known
	fastest  float64 // the speed that is possible, per second; 0: not known
	detail   string
	halted   string // why nothing is known of what is done now; empty: something is
	started  time.Time
	ended    time.Time // zero until Finish
	counts   speed     // of done
	shares   speed     // of share
}

// StartProgress shows the progress until Finish is called.
func StartProgress(out io.Writer, o ProgressOptions) *Progress {
	p := newProgress(o)
	if IsTerminal(out) && !isDumb() {
		p.drawBar(out)
	} else {
		p.writeLines(out, cmp.Or(o.Every, 5*time.Second))
	}
	return p
}

func newProgress(o ProgressOptions) *Progress {
	p := &Progress{unit: o.Unit, total: o.Total}
	p.StartAt(0)
	p.shares.add(p.started, 0)
	return p
}

// Set sets how many are done. Callers that count in several goroutines make sure
// that their last call has the final number.
func (p *Progress) Set(done int64) { p.update(func() { p.done = done }) }

// StartAt sets how many were done before. They are shown, but they do not count
// for the speed.
func (p *Progress) StartAt(done int64) {
	p.update(func() {
		p.before, p.done = done, done
		p.started, p.counts = time.Now(), speed{}
		p.counts.add(p.started, float64(done))
	})
}

// SetTotal sets how many there are. The total may change at any time.
func (p *Progress) SetTotal(total int64) { p.update(func() { p.total = total }) }

// SetShare sets which share is done, from 0 to 1. It is used while the total is
// not known.
func (p *Progress) SetShare(share float64) { p.update(func() { p.share = share }) }

// SetSpeed sets the speed to expect and the fastest one that is possible, per second. Each
// is 0 if it is not known. The remaining time is that of the first until a speed has been
// measured, and never shorter than that of the second.
func (p *Progress) SetSpeed(expected, fastest float64) {
	p.update(func() { p.foreseen, p.fastest = expected, fastest })
}

// SetDetail sets the text at the end of the line, such as "12 rejected".
func (p *Progress) SetDetail(text string) { p.update(func() { p.detail = text }) }

// Halt says why nothing is known of what is done now: until it is called with an empty text, no
// speed and no remaining time are shown, since both would sink without end.
func (p *Progress) Halt(why string) {
	p.update(func() {
		if p.halted != "" && why == "" {
			p.counts, p.shares = speed{}, speed{} // what was done meanwhile came at once
			p.counts.add(time.Now(), float64(p.done))
			p.shares.add(time.Now(), p.share)
		}
		p.halted = why
	})
}

func (p *Progress) update(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

// Write writes whole lines, above the bar if there is one. Until Finish, lines
// that are written to the same terminal in another way damage the bar.
func (p *Progress) Write(lines []byte) (int, error) {
	if p.bar != nil {
		if n, err := p.bar.Write(append([]byte("\r"), lines...)); !errors.Is(err, mpb.ErrDone) {
			return max(0, n-1), err
		}
	}
	return p.out.Write(lines)
}

// Finish shows the last state and stops the display. Further calls do nothing.
func (p *Progress) Finish() {
	p.once.Do(func() {
		p.update(func() { p.ended = time.Now() })
		p.end()
	})
}

// writeLines writes a line from time to time and a last one at the end. It writes
// nothing if the job ends before the first line is due and nothing was done.
func (p *Progress) writeLines(out io.Writer, every time.Duration) {
	p.out = zapcore.Lock(zapcore.AddSync(out))
	ending, ended := make(chan struct{}), make(chan struct{})
	showEnd := false
	go func() {
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				fmt.Fprintln(p, p.line())
				showEnd = true
			case <-ending:
				return
			}
		}
	}()
	p.end = func() {
		close(ending)
		<-ended
		p.update(func() { showEnd = showEnd || p.done != p.before })
		if showEnd {
			fmt.Fprintln(p, p.line())
		}
	}
}

// drawBar draws a bar while the done share is known, and a spinner while it is
// not. This may change at any time, so mpb asks for the current state whenever it
// draws, instead of being told.
func (p *Progress) drawBar(out io.Writer, more ...mpb.ContainerOption) {
	const width, parts = 30, 10_000
	bar, spinner := mpb.BarStyle().Build(), mpb.SpinnerStyle().Build()
	filler := mpb.BarFillerFunc(func(w io.Writer, s decor.Statistics) error {
		p.mu.Lock()
		share, known := p.doneShare()
		p.mu.Unlock()
		// The cursor is not at the start of the line if somebody has typed meanwhile.
		if _, err := io.WriteString(w, "\r"); err != nil {
			return err
		}
		if !known {
			s.RequestedWidth = 1
			return spinner.Fill(w, s)
		}
		s.RequestedWidth, s.Total, s.Current, s.Completed = width, parts, int64(share*parts), share == 1
		return bar.Fill(w, s)
	})
	text := decor.Any(func(decor.Statistics) string { return " " + p.line() })
	p.out, p.bar = out, mpb.New(append(more, mpb.WithOutput(out))...)
	drawn := p.bar.MustAdd(0, filler, mpb.BarFillerTrim(), mpb.AppendDecorators(text))
	p.end = func() {
		drawn.Abort(false) // false: the last state stays on the terminal
		p.bar.Wait()
	}
}

// doneShare returns which share is done, from 0 to 1. The caller holds p.mu.
func (p *Progress) doneShare() (share float64, known bool) {
	share = p.share
	if p.total > 0 {
		share = float64(p.done) / float64(p.total)
	}
	return min(max(share, 0), 1), p.total > 0 || share > 0
}

// line returns the progress as text, such as "120000 of 1000000 tasks, 61000/s,
// 14 s left".
func (p *Progress) line() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	count := humanize.Count(p.done, p.unit)
	if p.total > 0 {
		count = fmt.Sprintf("%d of %s", p.done, humanize.Count(p.total, p.unit))
	}
	parts := []string{count}
	switch {
	case p.halted != "":
		return count + ", " + p.halted
	case p.ended.IsZero():
		parts = append(parts, p.current()...)
	default:
		parts = append(parts, p.average()...)
	}
	if p.detail != "" {
		parts = append(parts, p.detail)
	}
	return strings.Join(parts, ", ")
}

// maxETA is the remaining time, in seconds, above which none is shown.
const maxETA = 1000 * 3600

// current returns the present speed and the remaining time or, if that is not
// known, the time that has passed. The caller holds p.mu.
func (p *Progress) current() []string {
	now := time.Now()
	rate := p.counts.add(now, float64(p.done))
	parts := []string{humanize.PerSecond(rate)}
	share, known := p.doneShare()
	var left float64
	switch {
	case !known:
		return append(parts, "after "+humanize.Seconds(now.Sub(p.started).Seconds()))
	case p.total > 0:
		left = float64(p.total-p.done) / p.expected(now, rate)
	default:
		parts = append([]string{fmt.Sprintf("%.0f %%", 100*share)}, parts...)
		left = (1 - share) / p.shares.add(now, share)
	}
	if left > 0 && left < maxETA { // at a rate of 0 it is infinite, or not a number
		parts = append(parts, humanize.Seconds(left)+" left")
	}
	return parts
}

// expected returns the speed to expect, given the one that was measured. Before anything
// was done it is the one that was foreseen; if that takes long, it is not known. The caller
// holds p.mu.
func (p *Progress) expected(now time.Time, measured float64) float64 {
	switch {
	case measured == 0 && p.done == p.before && now.Sub(p.started) < speedWindow:
		return p.foreseen
	case p.fastest == 0:
		return measured
	default:
		return min(measured, p.fastest)
	}
}

// average returns the average speed and the time that the job took. The caller
// holds p.mu.
func (p *Progress) average() (parts []string) {
	took := p.ended.Sub(p.started).Seconds()
	if took > 0 {
		parts = append(parts, humanize.PerSecond(max(0, float64(p.done-p.before)/took)))
	}
	return append(parts, fmt.Sprintf("in %.1f s", took))
}

// speed measures how fast a value grows, over a moving window.
type speed struct{ samples []sample }

type sample struct {
	at    time.Time
	value float64
}

const speedWindow = 10 * time.Second

// add adds a sample and returns the growth per second since the first sample in
// the window, or since the last sample before the window if samples are rare.
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
