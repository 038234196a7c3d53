package worker_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// TestWorker_SuspectsRunAlone gives a worker tasks that have the mark of a suspect,
// beside others. One of them at a time is called, and no other task waits for that.
func TestWorker_SuspectsRunAlone(t *testing.T) {
	t.Parallel()
	const suspects, others = 15, 200
	var mu sync.Mutex
	running, most, seen, after := 0, 0, 0, 0 // after counts the other tasks after the last suspect
	b := setup(t, newServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		suspect := strings.Contains(r.URL.Path, "suspect")
		mu.Lock()
		if suspect {
			running++
			seen++
			most = max(most, running)
		} else if seen == suspects {
			after++
		}
		mu.Unlock()
		if suspect {
			<-time.After(50 * time.Millisecond)
			mu.Lock()
			running--
			mu.Unlock()
		}
		_, _ = w.Write([]byte(done.body))
	})))
	payload := func(device string) []byte { return fmt.Appendf(nil, `{"v":1,"user_id":"u","device_id":%q}`, device) }
	// A repairer had stored the letter of one of them, and died before it removed the task.
	needless := deadletter.Letter{ID: "suspect-1", Kind: tasks.KindDeviceUnbind, Queue: tasks.QueueUnbind, Payload: payload("suspect-1"), Reason: tasks.Crashed, Error: "crashed: 3 times"}
	if err := b.letters.Park(t.Context(), needless); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.awaitSettled()
	for i := range others {
		b.enqueue(unbindTask(i))
	}
	for i := range suspects {
		device := fmt.Sprint("suspect-", i)
		opts := []asynq.Option{asynq.Queue(tasks.QueueUnbind), asynq.TaskID(device)}
		if i%2 == 0 {
			opts = append(opts, asynq.MaxRetry(0)) // asynq archives such a task if the handler returns an error
		}
		task := asynq.NewTaskWithHeaders(string(tasks.KindDeviceUnbind), payload(device), map[string]string{"kooworker-suspect": "1"})
		if _, err := b.client.EnqueueContext(t.Context(), task, opts...); err != nil {
			t.Fatal(err)
		}
	}
	redistest.Eventually(t, settleIn, "all done", func() bool { return b.outstanding() == 0 })
	mu.Lock()
	defer mu.Unlock()
	if most != 1 || seen != suspects {
		t.Errorf("%d calls of suspects, up to %d at a time; want %d, one at a time", seen, most, suspects)
	}
	if after > others/10 {
		t.Errorf("%d of %d other tasks came after the last suspect; want them not to wait", after, others)
	}
	if dead := b.dead(); len(dead) != 0 {
		t.Errorf("dead: %v; want none", dead)
	}
}
