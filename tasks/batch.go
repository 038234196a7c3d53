package tasks

import "time"

// BatchRef is a task's place in a batch. The zero value is no place: the task was
// enqueued by itself.
type BatchRef struct {
	// Batch is the batch's ID: 1 to 64 letters, digits, dots, hyphens or
	// underscores, the first of them a letter or digit.
	Batch string `json:"batch"`
	// Index tells the tasks of a batch apart: 0 to MaxIndex. Those of an input
	// are counted in its order.
	Index int64 `json:"index"`
}

// MaxIndex is the greatest index in a batch, and so the end of its size: Redis
// has room for so many states of four bits in one string.
const MaxIndex = 1<<30 - 1

// IsSet reports whether there is a place at all.
func (p BatchRef) IsSet() bool { return p.Batch != "" }

// validBatch: ^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$.
func validBatch(s string) bool {
	return s != "" && alphanumeric(s[0]) && len(s) <= maxTarget &&
		all(s, func(c byte) bool { return alphanumeric(c) || c == '.' || c == '_' || c == '-' })
}

// ValidateBatchID reports what is wrong with a batch's ID, as a *FieldError.
func ValidateBatchID(id string) error {
	return validateID("batch", id, validBatch,
		"1 to 64 letters, digits, dots, hyphens or underscores, the first of them a letter or digit")
}

// BatchStats is how a batch stands. Total is the sum of the eight counts that
// follow it, always.
type BatchStats struct {
	ID        string    `json:"id"`
	CreatedAt time.Time `json:"created_at"`
	// Total is the number of tasks and refused lines that the batch knows of. It
	// grows while the input is read, and by what off-boardings find.
	Total       int64 `json:"total"`
	Queued      int64 `json:"queued"` // no outcome yet
	Succeeded   int64 `json:"succeeded"`
	AlreadyGone int64 `json:"already_gone"`
	Superseded  int64 `json:"superseded"`
	Dead        int64 `json:"dead"`
	Discarded   int64 `json:"discarded"`
	Duplicate   int64 `json:"duplicate"` // the same target was queued already, in this batch
	Rejected    int64 `json:"rejected"`  // a line that is no task
	// Done: the whole input is in the batch, and nothing is queued any more.
	Done bool `json:"done"`
	// CompletedAt is when it was done for the first time, zero before that.
	CompletedAt time.Time `json:"-"`
}

// Failed is the number of tasks and lines of which nobody can say that
// what they ask for is done, nor that it is still under way.
func (b BatchStats) Failed() int64 { return b.Dead + b.Discarded + b.Rejected }

// Receipt is the proof of what became of one task of a batch.
type Receipt struct {
	BatchRef
	Kind   Kind   `json:"kind"`
	UserID string `json:"user_id"`
	Target string `json:"target"`
	// Outcome is what became of it, and Reason why.
	Outcome Outcome `json:"outcome"`
	Reason  Reason  `json:"reason"`
	// Attempts counts the answers about this task, the last one included; those
	// that were not its fault are not among them.
	Attempts int `json:"attempts"`
	// At is when the ledger took note of it, by Redis' clock.
	At time.Time `json:"at"`
	// Device is the device that an unbind removed, as the API described it; nil
	// where it did not.
	Device *Device `json:"device"`
	// Again marks a dead letter that was replayed and is dead once more, which is
	// news though the outcome is the same.
	Again bool `json:"-"`
}

// Device is a device as the API describes it.
type Device struct {
	DeviceID    string `json:"deviceId"`
	MachineCode string `json:"machineCode"`
	DeviceName  string `json:"deviceName"`
	DeviceOS    string `json:"deviceOS"`
	// CreateTime is when it was bound; zero where the API did not say.
	CreateTime time.Time `json:"createTime,omitzero"`
}

// ChildStatus is how the tasks stand that a task has enqueued in its latest round.
type ChildStatus struct {
	// Round counts from 1; 0 if there was none yet.
	Round int
	// Since is when it began, by Redis' clock.
	Since time.Time
	// Outstanding is the number of those that have no outcome yet.
	Outstanding int
	// Dead are those that are dead.
	Dead []Task
}
