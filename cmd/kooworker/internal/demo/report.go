package demo

import (
	"io"
	"maps"
	"sync"

	"github.com/kooworker/kooworker/cmd/kooworker/internal/terminal"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// Result is what became of a task.
type Result struct {
	Kind    tasks.Kind
	Outcome tasks.Outcome
	Retried bool // it succeeded at a later attempt than the first
}

// Report says what became of the tasks of a demo.
type Report struct {
	Enqueued map[tasks.Kind]int
	Finished map[Result]int
}

// count counts the tasks of one kind, or of all kinds if kind is empty, that have an
// outcome, or any outcome if it is empty.
func (r Report) count(kind tasks.Kind, outcome tasks.Outcome) (n int) {
	for result, tasks := range r.Finished {
		if (kind == "" || result.Kind == kind) && (outcome == "" || result.Outcome == outcome) {
			n += tasks
		}
	}
	return n
}

// writeTable writes the closing table.
func (r Report) writeTable(out io.Writer) error {
	table := terminal.NewTable(out, "", "UNBINDS", "RELEASES", "TOTAL")
	row := func(name string, number func(tasks.Kind) int) {
		unbinds, releases := number(tasks.KindDeviceUnbind), number(tasks.KindLockRelease)
		table.Row(name, unbinds, releases, unbinds+releases)
	}
	result := func(outcome tasks.Outcome, retried bool) func(tasks.Kind) int {
		return func(kind tasks.Kind) int { return r.Finished[Result{kind, outcome, retried}] }
	}
	row("succeeded at once", result(tasks.Succeeded, false))
	row("succeeded after failures", result(tasks.Succeeded, true))
	row("already gone", result(tasks.AlreadyGone, false))
	row("superseded", result(tasks.Superseded, false))
	row("dead", result(tasks.Dead, false))
	row("sum", func(kind tasks.Kind) int { return r.count(kind, "") })
	row("enqueued", func(kind tasks.Kind) int { return r.Enqueued[kind] })
	return table.Close("")
}

// observer counts what the worker reports.
type observer struct {
	mu     sync.Mutex
	report Report
}

func (o *observer) observe(e pipeline.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	v := e.Decision
	if v.Action != pipeline.Retry && !e.Delivery.Replay {
		o.report.Finished[Result{e.Delivery.Kind, v.Outcome, v.Outcome == tasks.Succeeded && v.Attempt > 0}]++
	}
}

// snapshot returns the counts so far.
func (o *observer) snapshot() Report {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.report
	r.Finished = maps.Clone(r.Finished)
	return r
}
