package enqueuetest_test

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/enqueue/enqueuetest"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder records the failure of a test instead of ending it.
type recorder struct {
	testing.TB
	failure string
}

func (r *recorder) Helper() {}

func (r *recorder) Fatalf(format string, args ...any) {
	if r.failure == "" {
		r.failure = fmt.Sprintf(format, args...)
	}
}

func setup(t *testing.T) (*enqueue.Client, redis.UniversalClient) {
	t.Helper()
	rdb := redistest.Start(t).Client()
	client, err := enqueue.New(enqueue.Config{Redis: rdb})
	if err != nil {
		t.Fatal(err)
	}
	return client, rdb
}

func TestRequireEnqueued(t *testing.T) {
	t.Parallel()
	client, rdb := setup(t)
	task, other := tasks.DeviceUnbind{UserID: "u", DeviceID: "d"}, tasks.LockRelease{UserID: "u", LockID: "l"}
	r := &recorder{TB: t}
	enqueuetest.RequireEnqueued(r, rdb, task)
	if want := "device:unbind:u:d is not enqueued; the outstanding tasks are: none"; r.failure != want {
		t.Errorf("failed with %q; want %q", r.failure, want)
	}
	if _, err := client.Unbind(t.Context(), task, enqueue.NoGuard(), enqueue.In(time.Hour)); err != nil {
		t.Fatal(err)
	}
	e := enqueuetest.RequireEnqueued(t, rdb, task)
	if e.ID != "device:unbind:u:d" || !e.Intent.NoGuard || time.Until(e.RunAt) < time.Minute {
		t.Errorf("%+v; want the unguarded task, which runs in an hour", e)
	}
	r = &recorder{TB: t}
	enqueuetest.RequireEnqueued(r, rdb, other)
	if want := "lock:release:u:l is not enqueued; the outstanding tasks are: device:unbind:u:d"; r.failure != want {
		t.Errorf("failed with %q; want %q", r.failure, want)
	}
	if _, err := client.Unbind(t.Context(), task); err != nil { // runs sooner, so it gets another ID
		t.Fatal(err)
	}
	r = &recorder{TB: t}
	enqueuetest.RequireEnqueued(r, rdb, task)
	if !strings.Contains(r.failure, "enqueued 2 times") {
		t.Errorf("failed with %q; want it to say that the task is enqueued 2 times", r.failure)
	}
}

func TestRequireNone(t *testing.T) {
	t.Parallel()
	client, rdb := setup(t)
	enqueuetest.RequireNone(t, rdb)
	var input iter.Seq2[tasks.Task, error] = func(yield func(tasks.Task, error) bool) {
		for i := range 1500 {
			if !yield(tasks.DeviceUnbind{UserID: "u", DeviceID: fmt.Sprintf("d-%04d", i)}, nil) {
				return
			}
		}
	}
	if _, err := client.Bulk(t.Context(), input, enqueue.BulkOptions{}); err != nil {
		t.Fatal(err)
	}
	enqueuetest.RequireNone(t, rdb, tasks.KindLockRelease)
	enqueuetest.RequireEnqueued(t, rdb, tasks.DeviceUnbind{UserID: "u", DeviceID: "d-1499"})
	r := &recorder{TB: t}
	enqueuetest.RequireNone(r, rdb)
	if !strings.HasPrefix(r.failure, "1500 tasks are enqueued; want none: device:unbind:u:d-0000, ") || !strings.HasSuffix(r.failure, " and 1490 more") {
		t.Errorf("failed with %q; want the first ten of 1500 tasks", r.failure)
	}
}

// deleteAccount stands for your code that is under test.
func deleteAccount(ctx context.Context, client *enqueue.Client, userID string) error {
	_, err := client.Offboard(ctx, tasks.UserOffboard{UserID: userID})
	return err
}

func Example() {
	t := &recorder{} // in a test of yours: its *testing.T

	server := miniredis.NewMiniRedis() // in a test of yours: miniredis.RunT(t)
	if err := server.Start(); err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true})
	defer func() { _ = rdb.Close() }()
	client, err := enqueue.New(enqueue.Config{Redis: rdb})
	if err != nil {
		fmt.Println(err)
		return
	}

	err = deleteAccount(context.Background(), client, "u-1")
	enqueuetest.RequireEnqueued(t, rdb, tasks.UserOffboard{UserID: "u-1"})
	enqueuetest.RequireNone(t, rdb, tasks.KindDeviceUnbind)
	fmt.Println(err)
	// Output: <nil>
}
