package tasks

import "strings"

// ReceiptSource says how the task of a receipt came about.
type ReceiptSource string

// The sources. An outcome of a dead letter that was replayed, discarded or cancelled has
// FromDeadLetter, whatever made the task.
const (
	FromBatch       ReceiptSource = "batch"
	FromSingle      ReceiptSource = "single"
	FromSweep       ReceiptSource = "sweep"
	FromOffboarding ReceiptSource = "offboarding" // an off-boarding, or what it has found
	FromDeadLetter  ReceiptSource = "dead-letter"
)

// SourceOfSingle returns the source of a task outside any batch by its ID. The ID of what
// an off-boarding has found begins with the identity of the off-boarding.
func SourceOfSingle(id string) ReceiptSource {
	if strings.HasPrefix(id, string(KindUserOffboard)+":") {
		return FromOffboarding
	}
	return FromSingle
}
