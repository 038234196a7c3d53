package batch

import (
	"strconv"

	"github.com/kooworker/kooworker/tasks"
)

// The index of all batches, and of those whose completion was not reported yet.
const (
	allKey  = "kooworker:batches"      // sorted set: batch IDs by the time of creation in ms
	openKey = "kooworker:batches:open" // set of batch IDs
)

// keys are the keys of one batch. A Redis cluster keeps them in one slot because
// of the braces.
type keys struct{ meta, states, slots, receipts, revised, used string }

func keysOf(id string) keys {
	prefix := prefixOf(id)
	return keys{prefix + "meta", prefix + "states", prefix + "slots", prefix + "receipts", prefix + "revised", prefix + "used"}
}

func prefixOf(id string) string { return "kooworker:{batch:" + id + "}:" }

// ledger returns the first KEYS of every script that changes states. All of them
// expire together, except the last one, which outlives them.
func (k keys) ledger() []string {
	return []string{k.meta, k.states, k.receipts, k.revised, k.slots, k.used}
}

// childrenKey returns the key of the record of a task's children. The identity
// names the parent if it belongs to no batch.
func childrenKey(ref tasks.BatchRef, identity string) string {
	if ref.IsSet() {
		return prefixOf(ref.Batch) + "brood:" + strconv.FormatInt(ref.Index, 10)
	}
	return "kooworker:brood:" + identity
}
