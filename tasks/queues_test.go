package tasks_test

import (
	"testing"

	"github.com/kooworker/kooworker/tasks"
)

func TestLane_NamesAreReadBack(t *testing.T) {
	t.Parallel()
	lanes := append([]tasks.Lane{tasks.LaneSingle, tasks.LaneUrgent, tasks.LaneBulk}, tasks.BatchLanes()...)
	weights := tasks.QueueWeights()
	seen := make(map[string]bool)
	for _, queue := range []string{tasks.QueueRelease, tasks.QueueUnbind, tasks.QueueOffboard} {
		for _, lane := range lanes {
			name := lane.Of(queue)
			if q, l := tasks.SplitQueue(name); q != queue || l != lane {
				t.Errorf("%s is lane %q of %s; want lane %q of %s", name, l, q, lane, queue)
			}
			if l, ok := tasks.ParseLane(string(lane)); l != lane || !ok {
				t.Errorf("lane %q is read as %q, %t", lane, l, ok)
			}
			if weights[name] <= 0 {
				t.Errorf("%s has the weight %d; want more than 0", name, weights[name])
			}
			seen[name] = true
		}
		if weights[tasks.LaneUrgent.Of(queue)] <= weights[queue] || weights[queue] <= weights[tasks.LaneBulk.Of(queue)] {
			t.Errorf("queue %s: want urgent tasks before single ones, and these before files", queue)
		}
	}
	for _, queue := range []string{tasks.QueueSweep, tasks.QueueWebhook, tasks.QueueDeadLetter} {
		for _, lane := range lanes {
			if name := lane.Of(queue); name != queue {
				t.Errorf("lane %q of %s is %s; want no lanes", lane, queue, name)
			}
		}
		seen[queue] = true
	}
	if len(seen) != len(weights) {
		t.Errorf("%d queues have a weight; want %d", len(weights), len(seen))
	}
	for _, name := range []string{"unbind-batch-1", "unbind-", "dead-letter", "sweep-urgent", "x"} {
		if q, l := tasks.SplitQueue(name); q != name || l != tasks.LaneSingle {
			t.Errorf("%s is lane %q of %s; want no lane", name, l, q)
		}
	}
	if l, ok := tasks.ParseLane("batch-1"); ok {
		t.Errorf("batch-1 is lane %q; want none", l)
	}
}

// The queues, with their lanes, are those that have a weight.
func TestQueues_AreAllThatWorkersServe(t *testing.T) {
	t.Parallel()
	weights := tasks.QueueWeights()
	for _, queue := range tasks.Queues() {
		for _, lane := range tasks.LanesOf(queue) {
			if weights[lane] == 0 {
				t.Errorf("%s of queue %s has no weight", lane, queue)
			}
			delete(weights, lane)
		}
	}
	if len(weights) > 0 {
		t.Errorf("%v belong to no queue of Queues", weights)
	}
}

// In a cluster the lanes of a queue lie on its masters as evenly as they can.
func TestBatchLanes_SpreadOverMasters(t *testing.T) {
	t.Parallel()
	for _, masters := range []int{2, 3, 4} {
		for _, queue := range []string{tasks.QueueRelease, tasks.QueueUnbind, tasks.QueueOffboard} {
			on := make([]int, masters)
			for _, lane := range tasks.BatchLanes() {
				on[slotOf(lane.Of(queue))*masters/slots]++
			}
			for _, n := range on {
				if least := len(tasks.BatchLanes()) / masters; n < least || n > least+1 {
					t.Errorf("%d masters have %v lanes of %s; want %d or %d each", masters, on, queue, least, least+1)
					break
				}
			}
		}
	}
}

const slots = 16384

// slotOf is a Redis cluster's: CRC-16/XMODEM.
func slotOf(tag string) int {
	crc := 0
	for _, b := range []byte(tag) {
		crc ^= int(b) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
			crc &= 0xffff
		}
	}
	return crc % slots
}
