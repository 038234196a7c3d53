package doctor

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/enqueue/history"
	"github.com/kooworker/kooworker/internal/humanize"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/clock"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/recovery"
)

// Fixed is something that Fix has done.
type Fixed struct {
	Queue string `json:"queue"`
	// Repair is what was done, as the metric kooworker_repairs_total calls it.
	Repair string `json:"repair"`
	Tasks  int64  `json:"tasks"`
	// Text is a sentence.
	Text string `json:"text"`
}

// repairTexts say what a repair has done, and to what.
var repairTexts = map[recovery.Repair]struct{ done, nouns, rest string }{
	recovery.Requeued:    {"put back", "tasks", " of dead workers"},
	recovery.Crashed:     {"made dead letters of", "tasks", " that kept killing their workers"},
	recovery.Leased:      {"gave a lease to", "active tasks", " without one"},
	recovery.Quarantined: {"made dead letters of", "unreadable tasks", ""},
	recovery.Lost:        {"removed", "IDs", " without a task"},
	recovery.Collected:   {"made dead letters of", "archived tasks", ""},
	recovery.Restored:    {"put back", "orphans", ""},
	recovery.Stray:       {"freed", "IDs", " of tasks that are done, or in another set"},
	recovery.Refused:     {"could not make dead letters of", "tasks", ", which stay where they are"},
}

// again is for leases that nobody may extend: a task is put back a minute after its lease has
// expired. Before that, its worker may live, and show that by extending the lease.
const again = "; if its worker is dead, a new worker puts such a task back when the lease has expired, and so does kooworker doctor --fix in two minutes"

// Fix repairs once what a worker repairs all the time. It returns what it has done, also if it
// ends with an error. The error is [recovery.ErrLocked] if a worker is at it.
func (d *Doctor) Fix(ctx context.Context) ([]Fixed, error) {
	c := clock.New(d.cfg.Redis, d.cfg.Logger)
	if err := c.Measure(ctx); err != nil {
		return nil, err
	}
	done := make(map[Fixed]int64)
	singles := history.NewStore(d.cfg.Redis)
	keep, err := singles.Keep(ctx)
	if err != nil {
		return nil, err
	}
	letters := deadletter.NewStore(d.cfg.Redis)
	r, err := recovery.New(recovery.Config{
		Redis: d.cfg.Redis, Parker: letters, IndexDeath: letters.IndexDeath, Receipts: receipts{batch.NewStore(d.cfg.Redis), singles, keep, d.cfg.Logger},
		Hold: c.Wrong, Logger: d.cfg.Logger.Named("recovery"),
		OnRepair: func(queue string, repair recovery.Repair, n int) {
			if repair != recovery.Paused && (repair != recovery.Registered || d.hasFault(queue, repair)) {
				done[Fixed{Queue: queue, Repair: string(repair)}] += int64(n)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	err = r.RunOnce(ctx)
	fixed := slices.Collect(maps.Keys(done))
	slices.SortFunc(fixed, func(a, b Fixed) int { return strings.Compare(a.Queue+" "+a.Repair, b.Queue+" "+b.Repair) })
	for i := range fixed {
		fixed[i].Tasks = done[fixed[i]]
		fixed[i].Text = fixed[i].sentence()
		if fixed[i].Repair == string(recovery.Leased) && d.live == 0 {
			fixed[i].Text += again
		}
	}
	return fixed, err
}

// hasFault reports whether the last Run has found a fault. Queues without tasks are registered
// as well, and nobody misses them.
func (d *Doctor) hasFault(queue string, repair recovery.Repair) bool {
	return slices.ContainsFunc(d.faults, func(f recovery.Fault) bool { return f.Queue == queue && f.Repair == repair })
}

func (f Fixed) sentence() string {
	repair := recovery.Repair(f.Repair)
	if repair == recovery.Registered {
		return fmt.Sprintf("queue %s: added it to asynq's list of queues", f.Queue)
	}
	text := repairTexts[repair]
	return fmt.Sprintf("queue %s: %s %s%s", f.Queue, text.done, humanize.Count(f.Tasks, text.nouns), text.rest)
}

// receipts records the receipts of tasks that become dead letters, as a worker does.
type receipts struct {
	batches *batch.Store
	singles *history.Store
	keep    time.Duration
	log     *zap.Logger
}

var _ recovery.Receipts = receipts{}

// Record implements recovery.Receipts.
func (r receipts) Record(ctx context.Context, receipt tasks.Receipt) error {
	if !receipt.IsSet() {
		return r.singles.Record(ctx, []tasks.Receipt{receipt}, r.keep)
	}
	_, gone, err := r.batches.RecordOutcomes(ctx, []tasks.Receipt{receipt})
	if len(gone) > 0 {
		r.log.Warn("no receipt: the batch was deleted or has expired", zap.String("batch", receipt.Batch), zap.Int64("index", receipt.Index))
	}
	return err
}
