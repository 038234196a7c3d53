package tasks

import (
	"slices"
	"strings"
)

// The queues. Releases are more urgent than unbinds, since a user waits for the
// lock; see [QueueWeights].
const (
	QueueRelease    = "release"
	QueueUnbind     = "unbind"
	QueueOffboard   = "offboard"
	QueueSweep      = "sweep"
	QueueWebhook    = "webhook"
	QueueDeadLetter = "dead-letter"
)

// Lane is a part of a queue, so that one part need not wait for another: a single order
// not for a file of millions, and a small batch not for a large one. In Redis, each lane is a
// queue of asynq's, whose name [Lane.Of] returns. Only the queues release, unbind and
// offboard have lanes.
type Lane string

// The lanes, beside those of [BatchLanes].
const (
	// LaneSingle is for orders that were enqueued one by one. It has the name of its
	// queue. Versions without lanes have all tasks there.
	LaneSingle Lane = ""
	// LaneUrgent is for what must go first.
	LaneUrgent Lane = "urgent"
	// LaneBulk is for files that are no batch.
	LaneBulk Lane = "bulk"
)

// batchLanes have numbers for which a Redis cluster of three masters has as many lanes
// of a queue on each of them, give or take one, and nearly so with two to six masters.
var batchLanes = []Lane{"batch-2", "batch-7", "batch-8", "batch-9", "batch-14", "batch-16", "batch-17", "batch-19"}

// BatchLanes are the lanes of batches. A batch has all of its tasks in one of them.
func BatchLanes() []Lane { return slices.Clone(batchLanes) }

// lanes are all lanes of a queue.
var lanes = append([]Lane{LaneSingle, LaneUrgent, LaneBulk}, batchLanes...)

// ParseLane returns the lane of a name. A lane that this version does not know is no
// lane.
func ParseLane(name string) (l Lane, ok bool) {
	if l = Lane(name); slices.Contains(lanes, l) {
		return l, true
	}
	return LaneSingle, false
}

// Of returns the name of the lane of a queue: "unbind-urgent", for example. A queue
// without lanes has the same name in all of them.
func (l Lane) Of(queue string) string {
	if l == LaneSingle || !hasLanes(queue) {
		return queue
	}
	return queue + "-" + string(l)
}

func hasLanes(queue string) bool {
	return queue == QueueRelease || queue == QueueUnbind || queue == QueueOffboard
}

// QueuesIn returns the names of the queues that have lanes, in each of these lanes.
func QueuesIn(lanes ...Lane) []string {
	var out []string
	for _, lane := range lanes {
		for _, queue := range []string{QueueUnbind, QueueRelease, QueueOffboard} {
			if name := lane.Of(queue); !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out
}

// BatchQueues returns the queues where the tasks of a batch may be: in its lane and,
// if they were found by an off-boarding that was replayed, in that of files.
func BatchQueues(l Lane) []string { return QueuesIn(l, LaneBulk) }

// SplitQueue returns the queue and the lane of a name that [Lane.Of] has made.
func SplitQueue(name string) (queue string, l Lane) {
	queue, rest, found := strings.Cut(name, "-")
	if found && rest != "" && hasLanes(queue) {
		if l, ok := ParseLane(rest); ok {
			return queue, l
		}
	}
	return name, LaneSingle
}

// Queues returns the queues without their lanes, the most urgent first.
func Queues() []string {
	return []string{QueueRelease, QueueUnbind, QueueOffboard, QueueSweep, QueueWebhook, QueueDeadLetter}
}

// LanesOf returns the names of all lanes of a queue, as [Lane.Of] makes them. A queue
// without lanes has its own name only.
func LanesOf(queue string) (names []string) {
	if !hasLanes(queue) {
		return []string{queue}
	}
	for _, l := range lanes {
		names = append(names, l.Of(queue))
	}
	return names
}

// queueWeights are those of the queues without their lanes.
var queueWeights = map[string]int{QueueRelease: 6, QueueUnbind: 3, QueueOffboard: 2, QueueSweep: 2, QueueWebhook: 1, QueueDeadLetter: 1}

// weight is what the weight of a queue is multiplied by in this lane.
func (l Lane) weight() int {
	switch l {
	case LaneUrgent:
		return 8
	case LaneSingle:
		return 4
	default:
		return 1
	}
}

// QueueWeights lists the queues, with each lane of them, and says how often a worker
// takes a task from each, relative to the others that have tasks. No queue starves, and
// no lane.
func QueueWeights() map[string]int {
	out := make(map[string]int)
	for queue, weight := range queueWeights {
		for _, name := range LanesOf(queue) {
			_, lane := SplitQueue(name)
			out[name] = weight * lane.weight()
		}
	}
	return out
}
