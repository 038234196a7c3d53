package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/humanize"
)

const (
	// mostBatches is how many batches are audited. Each costs a look through its queues.
	mostBatches = 20
)

func (d *Doctor) batchChecks() []check {
	return []check{{"batches.balance", 0, d.balance}, {"batches.missing", 0, d.missing}}
}

// stalled returns the batches with queued tasks to which nothing happens, those with the most
// tasks first, and how many there are in all.
func (d *Doctor) stalled(ctx context.Context) (some []batch.Stalled, all int, err error) {
	ctx, cancel := context.WithTimeout(ctx, redisLimit)
	defer cancel()
	stalled, err := batch.NewStore(d.cfg.Redis).Stalled(ctx, batch.StalledAfter)
	slices.SortStableFunc(stalled, func(a, b batch.Stalled) int { return int(max(-1, min(1, b.Queued-a.Queued))) })
	return stalled[:min(len(stalled), mostBatches)], len(stalled), err
}

// balance counts the states of the open batches again.
func (d *Doctor) balance(ctx context.Context) (out []Finding, err error) {
	store := batch.NewStore(d.cfg.Redis)
	limited, cancel := context.WithTimeout(ctx, redisLimit)
	defer cancel()
	open, err := store.Ongoing(limited)
	if err != nil {
		return nil, err
	}
	audited := open[:min(len(open), mostBatches)]
	for _, b := range audited {
		audit, err := store.Audit(ctx, b.ID)
		if err != nil {
			return out, err
		}
		if !audit.Clean() {
			out = append(out, wrong("kooworker batch audit "+b.ID, "the ledger of batch %s does not balance: %s", b.ID, strings.Join(audit.Problems, "; ")))
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	return ok("the ledgers of %s balance%s", humanize.Count(int64(len(audited)), "open batches"), besides(len(open)-len(audited))), nil
}

// missing looks for the tasks of batches to which nothing happens.
func (d *Doctor) missing(ctx context.Context) (out []Finding, err error) {
	if d.cfg.Missing == nil || d.cfg.Quick {
		return skipped("--quick leaves out what reads every task"), nil
	}
	some, all, err := d.stalled(ctx)
	if err != nil {
		return nil, err
	}
	for _, b := range some {
		missing, err := d.cfg.Missing(ctx, b.ID)
		if err != nil {
			return out, err
		}
		if n := int64(len(missing)); n > 0 {
			out = append(out, wrong(fmt.Sprintf("kooworker batch audit %s names them; enqueue the same input again with --batch %s --restore, or kooworker batch cancel %s", b.ID, b.ID, b.ID),
				"%s of batch %s %s missing: the ledger counts them, and no queue holds them, so the batch never ends", humanize.Count(n, "tasks"), b.ID, are(n)))
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	return ok("no task is missing of %s to which nothing has happened for a minute%s", humanize.Count(int64(len(some)), "batches"), besides(all-len(some))), nil
}

func besides(more int) string {
	if more <= 0 {
		return ""
	}
	return fmt.Sprintf("; %d more were not looked at", more)
}
