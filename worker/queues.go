package worker

import (
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
)

// singleQueues are the queues of single orders, which should begin at once.
func singleQueues() (names []string) {
	for name := range tasks.QueueWeights() {
		_, lane := tasks.SplitQueue(name)
		if _, calls := callsOf(name); calls && (lane == tasks.LaneSingle || lane == tasks.LaneUrgent) {
			names = append(names, name)
		}
	}
	return names
}

// callsOf returns the calls that the tasks of a queue make, whatever their lane. Dead
// letters have none: those that have just arrived make no call.
func callsOf(queue string) (kind gate.Kind, ok bool) {
	switch queue, _ := tasks.SplitQueue(queue); queue {
	case tasks.QueueUnbind:
		return gate.Unbind, true
	case tasks.QueueRelease:
		return gate.Release, true
	case tasks.QueueOffboard:
		return gate.List, true
	default:
		return "", false
	}
}

// holds reports whether no more tasks of a queue may be taken: because the clock is
// wrong, or because they would only wait for their calls.
func (w *Worker) holds(queue string) bool {
	if w.clock.Wrong() {
		return true
	}
	kind, ok := callsOf(queue)
	return ok && w.gate.Holds(kind)
}
