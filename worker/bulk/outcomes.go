package bulk

import (
	"context"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/enqueue/history"
	"github.com/kooworker/kooworker/tasks"
)

// RecordOutcomes records outcomes in the ledger of batches and in the history of the
// other tasks, each where it belongs.
func RecordOutcomes(ctx context.Context, batches *batch.Store, singles *history.Store, receipts []tasks.Receipt) error {
	var ofBatches, others []tasks.Receipt
	for _, r := range receipts {
		if r.IsSet() {
			ofBatches = append(ofBatches, r)
		} else {
			others = append(others, r)
		}
	}
	if _, _, err := batches.RecordOutcomes(ctx, ofBatches); err != nil {
		return err
	}
	keep, err := singles.Keep(ctx)
	if err != nil {
		return err
	}
	return singles.Record(ctx, others, keep)
}
