package worker_test

import (
	"strings"
	"testing"
	"time"

	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/internal/pauses"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// awaitLog waits until the log has so many lines with a text.
func (b *bundle) awaitLog(n int, text string) {
	b.t.Helper()
	redistest.Eventually(b.t, settleIn, "the log says "+text, func() bool { return strings.Count(b.logs.String(), text) >= n })
}

func (b *bundle) pause(o pauses.Order, queues ...string) {
	b.t.Helper()
	if err := pauses.Set(b.t.Context(), b.rdb, queues, o); err != nil {
		b.t.Fatal(err)
	}
}

// replayAll replays so many letters, when they have arrived.
func (b *bundle) replayAll(n int) {
	b.t.Helper()
	redistest.Eventually(b.t, settleIn, "all letters are replayed", func() bool {
		res, err := b.letters.Replay(b.t.Context(), deadletter.Filter{}, deadletter.Options{})
		if err != nil {
			b.t.Fatal(err)
		}
		n -= res.Done
		return n == 0
	})
}

// While a queue is paused, its tasks wait, and so do its dead letters that are replayed,
// although these run in another queue. Other queues go on.
func TestWorker_ReplaysWaitWhileTheirQueueIsPaused(t *testing.T) {
	t.Parallel()
	for name, pause := range map[string]func(b *bundle){
		"by kooworker": func(b *bundle) {
			b.pause(pauses.Order{By: "alice@ops-1", Reason: "the wrong file"}, tasks.QueueUnbind)
		},
		"by asynqmon": func(b *bundle) {
			if err := b.inspector.PauseQueue(tasks.QueueUnbind); err != nil {
				b.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const n = 20
			api := newStandIn(t, func(target string, _ int) reply {
				if strings.HasSuffix(strings.TrimSuffix(target, "@102"), "5") {
					return forbidden
				}
				return done
			})
			b := setup(t, api.URL)
			b.start()
			for i := range 10 * n {
				b.enqueue(unbindTask(i))
			}
			release := releaseTask(5)
			b.enqueue(release)
			b.awaitSettled()
			pause(b)
			b.awaitLog(1, "the queue is paused")
			api.setAnswer(always(done))
			before, _, _ := api.snapshot()
			b.replayAll(n + 1)
			waiting := func() []*asynq.TaskInfo {
				all, err := b.inspector.ListRetryTasks(tasks.QueueDeadLetter, asynq.PageSize(10*n))
				if err != nil {
					t.Fatal(err)
				}
				return all
			}
			redistest.Eventually(t, settleIn, "all replayed unbinds wait", func() bool { return len(waiting()) == n })
			<-time.After(4500 * time.Millisecond) // some of them come back meanwhile
			requests, deletes, _ := api.snapshot()
			if calls := len(requests) - len(before); calls != 1 || deletes[release.Target()] != 1 {
				t.Errorf("%d calls while the unbinds are paused; want that of the release only", calls)
			}
			for _, task := range waiting() {
				if task.Retried != 1 || !strings.Contains(task.LastErr, "queue unbind is paused by ") {
					t.Errorf("%s: %d failures, %q; want 1, since the wait is not charged, and the pause", task.ID, task.Retried, task.LastErr)
				}
			}
			if err := pauses.Remove(t.Context(), b.rdb, []string{tasks.QueueUnbind}); err != nil {
				t.Fatal(err)
			}
			b.awaitLog(1, "is not paused any more")
			redistest.Eventually(t, settleIn, "no letters are left", func() bool {
				_, deletes, _ := api.snapshot()
				done := 0
				for i := 5; i < 10*n; i += 10 {
					done += deletes[unbindTask(i).Target()]
				}
				return len(waiting()) == 0 && done == n
			})
		})
	}
}

// A pause ends by itself, and the log says so.
func TestWorker_PauseWithAnEnd(t *testing.T) {
	t.Parallel()
	api := newStandIn(t, always(done))
	b := setup(t, api.URL)
	b.pause(pauses.Order{By: "alice@ops-1", Reason: "maintenance", For: 4 * time.Second}, tasks.QueueUnbind, tasks.QueueOffboard)
	b.enqueue(unbindTask(1))
	b.start()
	b.awaitLog(2, "the queue is paused")
	if log := b.logs.String(); !strings.Contains(log, `"alice@ops-1"`) || !strings.Contains(log, `"maintenance"`) || !strings.Contains(log, `"until"`) {
		t.Errorf("the log:\n%s\nwant who paused it, why, and until when", log)
	}
	if requests, _, _ := api.snapshot(); len(requests) != 0 {
		t.Errorf("%d calls; want none while the queue is paused", len(requests))
	}
	b.awaitLog(2, "is not paused any more")
	b.awaitSettled()
	if requests, _, _ := api.snapshot(); len(requests) != 1 {
		t.Errorf("%d calls; want one after the end of the pause", len(requests))
	}
}
