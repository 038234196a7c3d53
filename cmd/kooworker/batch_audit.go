package main

import (
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/humanize"
	"github.com/kooworker/kooworker/worker/batches"
)

type batchAuditCmd struct {
	batchID
	JSON bool `help:"Print one JSON object."`
}

// auditReport is what the command prints as JSON.
type auditReport struct {
	ID    string `json:"id"`
	Clean bool   `json:"clean"`
	batch.Audit
	// Missing is how many tasks the ledger counts as queued or dead that nobody holds.
	Missing int `json:"missing"`
	// MissingTasks are the first of them, up to maxMissing.
	MissingTasks []batch.Missing `json:"missing_tasks"`
}

// maxMissing is how many missing tasks are named at most.
const maxMissing = 10_000

// Run implements the command.
func (c *batchAuditCmd) Run(e *env, store *batch.Store, rdb redis.UniversalClient) error {
	audit, err := store.Audit(e.ctx, c.ID)
	if err != nil {
		return redisError(err)
	}
	missing, err := batches.Missing(e.ctx, rdb, c.ID)
	if err != nil {
		return redisError(err)
	}
	clean := audit.Clean() && len(missing) == 0
	if c.JSON {
		report := auditReport{c.ID, clean, audit, len(missing), append([]batch.Missing{}, missing[:min(len(missing), maxMissing)]...)}
		if err := writeJSON(e.stdout, report); err != nil {
			return err
		}
	} else {
		printMissing(e, missing)
	}
	switch {
	case !audit.Clean():
		return fmt.Errorf("batch %s does not balance: %s", c.ID, strings.Join(audit.Problems, "; "))
	case !clean:
		return missingError(c.ID, missing)
	}
	if !c.JSON {
		fmt.Fprintf(e.stdout, "clean: %s, whose states were counted again", humanize.Count(audit.Stats.Total, "tasks"))
		if audit.Receipts >= 0 {
			fmt.Fprintf(e.stdout, "; %s", humanize.Count(audit.Receipts, "receipts"))
		}
		fmt.Fprintln(e.stdout)
	}
	return nil
}

// missingError says how many tasks are missing, and what to do about it.
func missingError(id string, missing []batch.Missing) error {
	queued := 0
	for _, m := range missing {
		if m.State == batch.Queued.String() {
			queued++
		}
	}
	err := fmt.Errorf("%d of the tasks that batch %s counts as queued or dead are missing: no queue holds them. Somebody has deleted them, or Redis has lost them", len(missing), id)
	hint := "kooworker batch cancel " + id + " records them as cancelled, with what else waits"
	if queued > 0 {
		hint = "enqueue the same input again with --batch " + id + " --restore to bring back those that were queued; or " + hint
	}
	return commandError{err, exitFailed, hint}
}

// printMissing names the missing tasks for people, adjacent ones together.
func printMissing(e *env, missing []batch.Missing) {
	const most = 100 // lines
	lines := 0
	for i := 0; i < len(missing); lines++ {
		if lines == most {
			fmt.Fprintf(e.stdout, "missing: %d more; --json names up to %d\n", len(missing)-i, maxMissing)
			return
		}
		first, last := missing[i], missing[i]
		for i++; i < len(missing) && missing[i] == (batch.Missing{Index: last.Index + 1, Item: nextItem(last.Item), State: last.State}); i++ {
			last = missing[i]
		}
		fmt.Fprintf(e.stdout, "missing: %s\n", rangeOf(first, last))
	}
}

// nextItem returns the number of the item behind this one. What was found by an
// off-boarding has none.
func nextItem(item int64) int64 {
	if item == 0 {
		return 0
	}
	return item + 1
}

// rangeOf describes missing tasks that follow each other.
func rangeOf(first, last batch.Missing) string {
	what, from, to := "item", first.Item, last.Item
	suffix := " of the input"
	if first.Item == 0 {
		what, from, to, suffix = "index", first.Index, last.Index, ", found by an off-boarding"
	}
	if from == to {
		return fmt.Sprintf("%s %d%s (%s)", what, from, suffix, first.State)
	}
	plural := map[string]string{"item": "items", "index": "indexes"}[what]
	return fmt.Sprintf("%s %d to %d%s (%s)", plural, from, to, suffix, first.State)
}
