package worker_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

// While KooDrive asks for a pause, tasks stay where they are. Otherwise all of them
// would move to the retry set within seconds, and come back in the same second.
func TestWorker_TakesNoTasksWhileThrottled(t *testing.T) {
	t.Parallel()
	const n = 2000
	var calls atomic.Int64
	long := reply{429, map[string]string{"Retry-After": "60"}, throttled.body}
	api := newStandIn(t, func(string, int) reply {
		if calls.Add(1) > 100 {
			return long
		}
		return done
	})
	b := setup(t, api.URL)
	for i := range n {
		b.enqueue(unbindTask(i))
	}
	b.start()
	redistest.Eventually(t, settleIn, "KooDrive throttles", func() bool { return calls.Load() > 100 })
	var moved, waiting int
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		info, err := b.inspector.GetQueueInfo(tasks.QueueUnbind)
		if err != nil {
			t.Fatal(err)
		}
		moved, waiting = info.Retry, info.Pending
	}
	// Those in flight are put back, and those that were taken before the pause was known.
	if most := 4 * b.cfg.Concurrency; moved > most || moved+waiting < n-100-most {
		t.Errorf("%d tasks are in the retry set, %d wait; want at most %d moved", moved, waiting, most)
	}
}

// One task in ten is throttled once. During such a short pause other tasks are taken,
// and wait for its end in place, so that the pauses do not come one after the other.
func TestWorker_TakesTasksDuringShortPauses(t *testing.T) {
	t.Parallel()
	const n = 500
	api := newStandIn(t, func(target string, nth int) reply {
		if nth == 1 && target[len(target)-1] == '5' {
			return throttled
		}
		return done
	})
	b := setup(t, api.URL)
	b.cfg.Concurrency = 64
	for i := range n {
		b.enqueue(unbindTask(i))
	}
	b.start()
	start := time.Now()
	b.awaitSettled()
	if took := time.Since(start); took > 40*time.Second {
		t.Errorf("took %s; want less than 40s for 50 pauses of a second", took)
	}
}
