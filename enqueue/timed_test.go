package enqueue_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/enqueue/records"
	"github.com/kooworker/kooworker/tasks"
)

// The lines of a file run at their own times, with and without a batch. A time that has
// passed is none, and a resumed input enqueues nothing twice.
func TestBulk_TimesOfTheirOwn(t *testing.T) {
	t.Parallel()
	at := time.Now().Add(24 * time.Hour).Truncate(time.Second).Add(300 * time.Millisecond).UTC()
	file := "user_id,device_id,run_at\nu,now,\nu,past,2020-01-01T00:00:00Z\nu,later," + at.Format(time.RFC3339Nano) + "\n" +
		"u,bad,tomorrow\nu,far,2800-01-01T00:00:00Z\nu,expires," + at.Add(48*time.Hour).Format(time.RFC3339) + "\n"
	for name, spec := range map[string]*batch.Spec{"batch": {ID: "b"}, "no batch": nil} {
		b := setup(t)
		client := newClient(t, b.rdb)
		var refused []string
		runAt := map[string]time.Time{}
		run := func() enqueue.BulkResult {
			t.Helper()
			res, err := client.Bulk(t.Context(), records.TasksCSV(tasks.KindDeviceUnbind, strings.NewReader(file)), enqueue.BulkOptions{
				Batch: spec, Options: []enqueue.Option{enqueue.In(time.Hour), enqueue.Deadline(at.Add(time.Hour))},
				OnItem: func(item enqueue.Item) {
					if item.Err != nil {
						refused = append(refused, item.Err.Error())
					} else if item.Status == enqueue.Enqueued {
						runAt[item.Task.Target()] = item.RunAt
					}
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			return res
		}
		if res := run(); res.Enqueued != 3 || res.Rejected != 3 {
			t.Errorf("%s: %+v; want 3 enqueued and 3 rejected", name, res)
		}
		if text := strings.Join(refused, "\n"); !strings.Contains(text, "line 5: run_at") || !strings.Contains(text, "less than 290 years") || !strings.Contains(text, "before the deadline") {
			t.Errorf("%s: refused %s; want the reasons", name, text)
		}
		if hour := time.Until(runAt["now"]); hour < 59*time.Minute || hour > 61*time.Minute || time.Until(runAt["past"]) > time.Second {
			t.Errorf("%s: %v; want the first in an hour, and the second now", name, runAt)
		}
		if want := at.Truncate(time.Second).Add(time.Second); !runAt["later"].Equal(want) {
			t.Errorf("%s: it runs at %s; want %s", name, runAt["later"], want)
		}
		scheduled := 0
		for _, lane := range unbindLanes(t, b.inspector) {
			for _, z := range b.rdb.ZRangeWithScores(t.Context(), "asynq:{"+lane+"}:scheduled", 0, -1).Val() {
				scheduled++
				if z.Score != float64(runAt["now"].Unix()) && z.Score != float64(runAt["later"].Unix()) {
					t.Errorf("%s: %v is due at %v; want one of %v", name, z.Member, z.Score, runAt)
				}
			}
		}
		if scheduled != 2 {
			t.Errorf("%s: %d scheduled; want 2", name, scheduled)
		}
		if res := run(); res.Enqueued != 0 || res.Skipped+res.Duplicate != 3 && spec == nil {
			t.Errorf("%s: again: %+v; want none enqueued", name, res)
		}
	}
}

// Enqueue takes the time, too. A task with two times is refused.
func TestEnqueue_Timed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	client := newClient(t, b.rdb)
	at := time.Now().Add(time.Hour).Truncate(time.Second)
	timed := tasks.Timed{Task: unbind, RunAt: at}
	if res, err := client.Enqueue(t.Context(), timed, enqueue.In(time.Minute)); err != nil || !res.RunAt.Equal(at) {
		t.Errorf("%+v, %v; want it at %s", res, err, at)
	}
	var refused error
	_, err := client.Bulk(t.Context(), func(yield func(tasks.Task, error) bool) { yield(tasks.Timed{Task: timed, RunAt: at}, nil) }, enqueue.BulkOptions{
		OnItem: func(item enqueue.Item) { refused = item.Err },
	})
	if field, ok := errors.AsType[*tasks.FieldError](refused); err != nil || !ok || field.Field != "run_at" {
		t.Errorf("%v, %v; want it refused because of run_at", err, refused)
	}
}
