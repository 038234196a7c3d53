package enqueue_test

import (
	"errors"
	"testing"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

// KooDrive does not know such ids, and the tasks would count as done.
func TestClient_RefusesIDsThatNoSystemGives(t *testing.T) {
	t.Parallel()
	b := setup(t)
	bad := map[string]tasks.Task{
		"user_id":   tasks.UserOffboard{UserID: "1.50508E+18"},
		"device_id": tasks.DeviceUnbind{UserID: "u", DeviceID: "NULL"},
		"lock_id":   tasks.LockRelease{UserID: "u", LockID: "None"},
	}
	for field, task := range bad {
		_, err := b.client.Enqueue(t.Context(), task)
		if wrong, ok := errors.AsType[*tasks.FieldError](err); !ok || wrong.Field != field {
			t.Errorf("%+v: %v; want a FieldError for %s", task, err, field)
		}
		for _, spec := range []*batch.Spec{nil, {ID: "b-" + field[:4]}} {
			o := enqueue.BulkOptions{Batch: spec, OnItem: func(item enqueue.Item) { err = item.Err }}
			one := func(yield func(tasks.Task, error) bool) { yield(task, nil) }
			res, bulkErr := b.client.Bulk(t.Context(), one, o)
			if wrong, ok := errors.AsType[*tasks.FieldError](err); bulkErr != nil || res.Rejected != 1 || !ok || wrong.Field != field {
				t.Errorf("%+v in a bulk: %+v, %v, and the item %v; want it rejected for its %s", task, res, bulkErr, err, field)
			}
		}
		if _, err := b.client.Enqueue(t.Context(), task, enqueue.AllowAnyID()); err != nil {
			t.Errorf("%+v with AllowAnyID: %v; want it enqueued", task, err)
		}
		o := enqueue.BulkOptions{Batch: &batch.Spec{ID: "any-" + field[:4]}, Options: []enqueue.Option{enqueue.AllowAnyID()}}
		one := func(yield func(tasks.Task, error) bool) { yield(task, nil) }
		if res, err := b.client.Bulk(t.Context(), one, o); err != nil || res.Enqueued != 1 {
			t.Errorf("%+v in a bulk with AllowAnyID: %+v, %v; want it enqueued", task, res, err)
		}
	}
}

// A batch may have any name, and what a sweep has listed was checked before.
func TestClient_ChecksOnlyTheIDsOfOrders(t *testing.T) {
	t.Parallel()
	b := setup(t)
	if _, err := b.client.Enqueue(t.Context(), tasks.BatchWebhook{BatchID: "none"}); err != nil {
		t.Errorf("a webhook of the batch none: %v; want it enqueued", err)
	}
	one := func(yield func(tasks.Task, error) bool) {
		yield(tasks.LockRelease{UserID: "1.5E+18", LockID: "l"}, nil)
	}
	if done, err := b.client.EnqueueReleases(t.Context(), "b-1", one); err != nil || len(done) != 1 {
		t.Errorf("%v, %v; want the release of a sweep enqueued", done, err)
	}
}
