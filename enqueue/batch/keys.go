package batch

import (
	"strconv"

	"github.com/kooworker/kooworker/tasks"
)

// The index of all batches, and those whose completion is still to be told.
const (
	allKey  = "kooworker:batches"      // sorted set: batch by the ms in which it was made
	openKey = "kooworker:batches:open" // set
)

// keys are the keys of one batch. The braces make a Redis cluster keep them
// together.
type keys struct{ meta, states, slots, receipts, revised, used string }

func keysOf(id string) keys {
	prefix := prefixOf(id)
	return keys{prefix + "meta", prefix + "states", prefix + "slots", prefix + "receipts", prefix + "revised", prefix + "used"}
}

func prefixOf(id string) string { return "kooworker:{batch:" + id + "}:" }

// ledger are the first KEYS of every script that changes states. All expire
// together, but for the last, which outlives them.
func (k keys) ledger() []string {
	return []string{k.meta, k.states, k.receipts, k.revised, k.slots, k.used}
}

// broodKey is the note of the children of a task.
func broodKey(place tasks.BatchRef, identity string) string {
	if place.IsSet() {
		return prefixOf(place.Batch) + "brood:" + strconv.FormatInt(place.Index, 10)
	}
	return "kooworker:brood:" + identity
}
