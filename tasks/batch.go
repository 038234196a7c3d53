package tasks

import (
	"fmt"
	"time"
)

// BatchRef says which batch a task belongs to, and which of its tasks it is. The
// zero value means that the task was enqueued by itself, outside any batch.
type BatchRef struct {
	// Batch is the batch's ID: 1 to 64 letters, digits, dots, hyphens or
	// underscores, the first of them a letter or digit.
	Batch string `json:"batch"`
	// Index tells the tasks of a batch apart: 0 to MaxIndex. The tasks of an input
	// are numbered in the input's order.
	Index int64 `json:"index"`
}

// MaxIndex is the greatest index in a batch. It limits the size of a batch: one
// Redis string has room for this many states of four bits.
const MaxIndex = 1<<30 - 1

// IsSet reports whether the task belongs to a batch.
func (r BatchRef) IsSet() bool { return r.Batch != "" }

// validBatch matches ^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$.
func validBatch(s string) bool {
	return s != "" && alphanumeric(s[0]) && len(s) <= maxTarget &&
		all(s, func(c byte) bool { return alphanumeric(c) || c == '.' || c == '_' || c == '-' })
}

// ValidateBatchID reports what is wrong with a batch's ID, as a *FieldError.
func ValidateBatchID(id string) error {
	return validateID("batch", id, validBatch,
		"1 to 64 letters, digits, dots, hyphens or underscores, the first of them a letter or digit")
}

// BatchStats are the counts of a batch. Total is always the sum of the nine counts
// that follow it.
type BatchStats struct {
	ID        string    `json:"id"`
	CreatedAt time.Time `json:"created_at"`
	// Total is the number of tasks and refused lines that the batch contains. It
	// grows while the input is read, and whenever an off-boarding finds tasks.
	Total       int64 `json:"total"`
	Queued      int64 `json:"queued"` // no outcome yet
	Succeeded   int64 `json:"succeeded"`
	AlreadyGone int64 `json:"already_gone"`
	Superseded  int64 `json:"superseded"`
	Cancelled   int64 `json:"cancelled"`
	Dead        int64 `json:"dead"`
	Discarded   int64 `json:"discarded"`
	Duplicate   int64 `json:"duplicate"` // this batch has queued the same target before
	Rejected    int64 `json:"rejected"`  // the line is not a task
	// Done means that the whole input is in the batch and nothing is queued any more.
	Done bool `json:"done"`
	// DueBy is when the batch should be complete; zero if nobody has said so.
	DueBy time.Time `json:"due_by,omitzero"`
	// CompletedAt is the first time at which the batch was done; zero before that.
	CompletedAt time.Time `json:"-"`
}

// Failed is the number of tasks and lines that were not carried out and are not
// under way any more.
func (b BatchStats) Failed() int64 { return b.Cancelled + b.Dead + b.Discarded + b.Rejected }

// IsLate reports whether the batch should have been complete before now, and is not.
func (b BatchStats) IsLate(now time.Time) bool {
	return !b.DueBy.IsZero() && b.CompletedAt.IsZero() && !b.Done && b.DueBy.Before(now)
}

// GoneWarning asks whether the ids are right, if most of the tasks that have ended well,
// and at least 20 have, found nothing to do. Otherwise it is empty. So many are usual if
// the same tasks ran before; but KooDrive says the same of ids that it does not know.
func (b BatchStats) GoneWarning() string {
	const few = 20
	ended := b.endedWell()
	if ended < few || 2*b.AlreadyGone <= ended {
		return ""
	}
	return fmt.Sprintf("%d of %d tasks were already gone: %s", b.AlreadyGone, ended, areIDsRight)
}

const areIDsRight = "are the ids right? KooDrive says the same of ids that it does not know"

// CheckGone returns an error that asks the same if more than a share, 0 to 1, of the tasks
// that have ended well found nothing to do.
func (b BatchStats) CheckGone(most float64) error {
	ended := b.endedWell()
	if ended == 0 || float64(b.AlreadyGone)/float64(ended) <= most {
		return nil
	}
	return fmt.Errorf("%d of %d tasks were already gone, which is more than a share of %g: %s", b.AlreadyGone, ended, most, areIDsRight)
}

func (b BatchStats) endedWell() int64 { return b.Succeeded + b.AlreadyGone + b.Superseded }

// Receipt is the record of what became of one task. The BatchRef of a task outside any
// batch is not set.
type Receipt struct {
	BatchRef
	Kind   Kind   `json:"kind"`
	UserID string `json:"user_id"`
	Target string `json:"target"`
	// Outcome is what became of the task, and Reason says why. The reason of a task that
	// was cancelled is followed by what the operator said: "cancelled: wrong file".
	Outcome Outcome `json:"outcome"`
	Reason  Reason  `json:"reason"`
	// Attempts counts KooDrive's answers about this task, the last one included.
	// Failures that were not the task's fault are not counted.
	Attempts int `json:"attempts"`
	// At is when the ledger recorded the outcome, by Redis' clock.
	At time.Time `json:"at"`
	// Device is the device that an unbind removed, as the API described it; nil
	// if the API did not describe it.
	Device *Device `json:"device"`
	// Source says how the task came about. The receipts of one batch do not say it.
	Source ReceiptSource `json:"source,omitempty"`
	// Again marks a dead letter that was replayed and died again. It gets another
	// receipt although the outcome is the same.
	Again bool `json:"-"`
}

// Device is a device as the API describes it.
type Device struct {
	DeviceID    string `json:"deviceId"`
	MachineCode string `json:"machineCode"`
	DeviceName  string `json:"deviceName"`
	DeviceOS    string `json:"deviceOS"`
	// CreateTime is when the device was bound; zero if the API did not say.
	CreateTime time.Time `json:"createTime,omitzero"`
}
