package main

import (
	"context"
	"io"
	"text/tabwriter"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// watch shows the progress until all tasks have an outcome and nothing is under
// way: a bar on a terminal, a line a second elsewhere.
func watch(ctx context.Context, out io.Writer, t *tally, total int, settled func() bool) error {
	shown := newProgress(out, progressOptions{unit: "done", total: int64(total), every: time.Second})
	defer shown.finish()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		done := int(t.finished.Load())
		shown.set(int64(done))
		if done >= total && settled() {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
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
