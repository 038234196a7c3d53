package pipeline

import (
	"context"
	"fmt"
	"time"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
)

// receiptTimeout bounds the attempts to write a receipt. After it the task runs
// again.
const receiptTimeout = 15 * time.Second

// writeReceipt writes the receipt of a task to the batch ledger, before the task
// may leave its queue, and before its letter is parked. If the process dies after
// that, the task runs again. The ledger keeps the first receipt, unless that says
// dead. If the process dies before that, the task runs again, and its receipt says
// already_gone for what the first run has removed. If only the writing fails, this
// process remembers the result, and the task comes back for its receipt alone.
//
// If the ledger cannot take the receipt although Redis is there, because somebody has
// written to its keys, the task is dead after Policy.MaxWait, and has no receipt.
//
// KooDrive has answered by now, so the receipt is written even if ctx has ended.
func (p *Pipeline) writeReceipt(ctx context.Context, d Delivery, job Job, result Result, decision Decision) Decision {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), receiptTimeout)
	defer cancel()
	r := tasks.Receipt{
		BatchRef: job.Intent.BatchRef, Kind: d.Kind, UserID: job.Task.User(), Target: job.Task.Target(),
		Outcome: decision.Outcome, Reason: decision.Reason, Attempts: decision.Attempt, Device: result.Device,
		Source: d.source(job.Intent), Again: d.Replay && decision.Action == Park,
	}
	switch {
	case decision.Outcome == tasks.Cancelled:
		if result.Detail != "" {
			r.Reason += ": " + tasks.Reason(result.Detail)
		}
		if d.Suspect { // of other tasks asynq does not tell how the last attempt ended
			r.Reason += tasks.MayBeDone
		}
	case decision.Action == Complete:
		r.Attempts++ // the attempt that succeeded is not charged, but the receipt counts it
	}
	if err := p.receipts.Record(ctx, r); err != nil {
		if !asynqx.IsUnavailable(err) && p.waitedTooLong(ctx, d) {
			text := fmt.Sprintf("%s: it is %s, but its receipt cannot be written: %v", tasks.Waiting, decision.Outcome, err)
			return Decision{Action: Park, Outcome: tasks.Dead, Reason: tasks.Waiting, Attempt: d.Attempts, Error: text}
		}
		p.log.storeFailed("done or dead, but its receipt cannot be written yet; the task runs again", d, err)
		p.unrecorded.Add(d.order(), result)
		return p.runAgain(d, decision)
	}
	if p.unrecorded.Len() > 0 {
		p.unrecorded.Remove(d.order())
	}
	return decision
}

// source says how a task outside any batch came about. The receipts of a batch do not
// say it.
func (d Delivery) source(in tasks.Intent) tasks.ReceiptSource {
	switch {
	case in.BatchRef.IsSet():
		return ""
	case d.Replay:
		return tasks.FromDeadLetter
	default:
		return tasks.SourceOfSingle(d.ID)
	}
}

// maxUnrecorded is how many results a process remembers while the ledger is away.
// It is more than the process has in flight, and takes some megabytes.
const maxUnrecorded = 10_000

// keptResult returns the result of a task whose receipt could not be written before.
// Usually there is none at all, and the order is not asked for.
func (p *Pipeline) keptResult(d Delivery) (Result, bool) {
	if p.unrecorded.Len() == 0 {
		return Result{}, false
	}
	return p.unrecorded.Get(d.order())
}
