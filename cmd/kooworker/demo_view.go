package main

import (
	"context"
	"io"
	"text/tabwriter"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/kooworker/kooworker/tasks"
)

// watch shows the progress until all tasks have an outcome and nothing is under
// way: a bar on a terminal, a line a second elsewhere.
func watch(ctx context.Context, out io.Writer, t *tally, total int, settled func() bool) error {
	show, finish := plainProgress(out, total)
	if isTerminal(out) {
		show, finish = barProgress(out, total)
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		done := int(t.finished.Load())
		show(done)
		if done >= total && settled() {
			finish(true)
			return nil
		}
		select {
		case <-ctx.Done():
			finish(false)
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

func barProgress(out io.Writer, total int) (show func(int), finish func(bool)) {
	progress := mpb.New(mpb.WithOutput(out), mpb.WithWidth(50))
	bar := progress.AddBar(int64(total),
		mpb.PrependDecorators(decor.CountersNoUnit("%d of %d done ")),
		mpb.AppendDecorators(decor.Percentage()))
	return func(done int) { bar.SetCurrent(int64(done)) }, func(complete bool) {
		if !complete {
			bar.Abort(false)
		}
		progress.Wait()
	}
}

func plainProgress(out io.Writer, total int) (show func(int), finish func(bool)) {
	var last time.Time
	line := func(done int) { say(out, "%d of %d done\n", done, total) }
	shown := -1
	return func(done int) {
			if done != shown && (time.Since(last) >= time.Second || done >= total) {
				line(done)
				last, shown = time.Now(), done
			}
		}, func(bool) {
		}
}

// table writes the closing table and reports whether its rows add up to what
// was enqueued.
func (t *tally) table(out io.Writer, plan *demoPlan) (balances bool) {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	var sum [2]int
	row := func(name string, outcome tasks.Outcome, retried bool) {
		unbinds, releases := t.count(tasks.KindDeviceUnbind, outcome, retried), t.count(tasks.KindLockRelease, outcome, retried)
		sum[0], sum[1] = sum[0]+unbinds, sum[1]+releases
		say(w, "%s\t%d\t%d\t%d\t\n", name, unbinds, releases, unbinds+releases)
	}
	say(w, "\n\tunbinds\treleases\ttotal\t\n")
	row("succeeded at once", tasks.Succeeded, false)
	row("succeeded after failures", tasks.Succeeded, true)
	row("already gone", tasks.AlreadyGone, false)
	row("superseded", tasks.Superseded, false)
	row("dead", tasks.Dead, false)
	say(w, "sum\t%d\t%d\t%d\t\n", sum[0], sum[1], sum[0]+sum[1])
	say(w, "enqueued\t%d\t%d\t%d\t\n", plan.unbinds, plan.releases, plan.unbinds+plan.releases)
	_ = w.Flush() // into a terminal, or nobody reads it
	return sum == [2]int{plan.unbinds, plan.releases}
}
