package worker_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kooworker/kooworker/enqueue/history"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// history returns what the history says of a user.
func (b *bundle) history(user string) (lines []string) {
	b.t.Helper()
	for r, err := range history.NewStore(b.rdb).OfUser(b.t.Context(), user) {
		if err != nil {
			b.t.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("%s: %s %s %s %s, %d attempts", r.Source, r.Kind, r.Target, r.Outcome, r.Reason, r.Attempts))
	}
	return lines
}

func TestWorker_SingleOrdersGetReceipts(t *testing.T) {
	t.Parallel()
	api := newStandIn(t, func(target string, nth int) reply {
		switch {
		case target == "d-gone":
			return gone
		case target == "d-dead" && nth == 1:
			return forbidden
		case target == "d-late" && nth <= 2:
			return trouble
		}
		return done
	})
	b := setup(t, api.URL)
	b.failScripts("{history:", 2)
	b.start()
	want := map[string][]string{
		"d-ok":   {"single: device:unbind d-ok succeeded ok, 1 attempts"},
		"d-gone": {"single: device:unbind d-gone already_gone already_gone, 1 attempts"},
		"d-late": {"single: device:unbind d-late succeeded ok, 3 attempts"},
		"d-dead": {"single: device:unbind d-dead dead forbidden, 1 attempts", "dead-letter: device:unbind d-dead succeeded ok, 2 attempts"},
	}
	for target := range want {
		b.enqueue(tasks.DeviceUnbind{UserID: "of-" + target, DeviceID: target})
	}
	b.awaitSettled()
	if res, err := b.letters.Replay(t.Context(), deadletter.Filter{}, deadletter.Options{}); err != nil || res.Done != 1 {
		t.Errorf("replay: %+v, %v; want one done", res, err)
	}
	redistest.Eventually(t, settleIn, "no dead letters", func() bool { return len(b.dead()) == 0 && b.outstanding() == 0 })
	for target, lines := range want {
		if diff := cmp.Diff(lines, b.history("of-"+target)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", target, diff)
		}
	}
	if keep, err := history.NewStore(b.rdb).Keep(t.Context()); keep != history.DefaultKeep || err != nil {
		t.Errorf("the worker keeps it for %s, %v; want the default", keep, err)
	}
}

// A single order leaves its queue when its receipt is written, and not before.
func TestWorker_SingleOrderStaysUntilItsReceiptIsWritten(t *testing.T) {
	t.Parallel()
	api := newStandIn(t, always(done))
	b := setup(t, api.URL)
	healthy := b.cfg.Redis
	b.failScripts("{history:", 1<<30)
	b.enqueue(unbindTask(1))
	_, stop := b.start()
	redistest.Eventually(t, settleIn, "it is done, and put back", func() bool {
		info, err := b.inspector.GetQueueInfo(tasks.QueueUnbind)
		return err == nil && info.Retry == 1
	})
	stop()
	if n := b.outstanding(); n != 1 || b.history(unbindTask(1).User()) != nil {
		t.Errorf("%d tasks are outstanding, and the history is %v; want the one without its receipt", n, b.history(unbindTask(1).User()))
	}
	// The next worker knows nothing of the call. Its KooDrive knows.
	b.cfg.Redis, b.cfg.Registry = healthy, prometheus.NewRegistry()
	api.setAnswer(always(gone))
	b.start()
	b.awaitSettled()
	want := []string{"single: device:unbind device-1 already_gone already_gone, 1 attempts"}
	if diff := cmp.Diff(want, b.history(unbindTask(1).User())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWorker_NoHistory(t *testing.T) {
	t.Parallel()
	api := newStandIn(t, always(done))
	b := setup(t, api.URL)
	b.cfg.NoHistory, b.cfg.HistoryKeep = true, time.Hour
	b.start()
	b.enqueue(unbindTask(1))
	b.awaitSettled()
	if got := b.history(unbindTask(1).User()); got != nil {
		t.Errorf("%v; want no receipts", got)
	}
	if keep, err := history.NewStore(b.rdb).Keep(t.Context()); keep != history.Off || err != nil {
		t.Errorf("%s, %v; want the commands to write none either", keep, err)
	}
}
