package userhistory_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/enqueue/history"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/userhistory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recordBatch makes a batch of one task and records these outcomes of it, one after the other.
func recordBatch(t *testing.T, rdb redis.UniversalClient, spec batch.Spec, task tasks.Task, receipts ...tasks.Receipt) {
	t.Helper()
	ctx, store := t.Context(), batch.NewStore(rdb)
	if _, _, err := store.Open(ctx, spec); err != nil {
		t.Fatal(err)
	}
	var digest batch.RollingDigest
	digest.AddTask(task)
	_, claimed := store.ClaimChunk(ctx, spec.ID, 0, []batch.Digest{digest.Digest()})
	marked := store.Mark(ctx, spec.ID, []batch.Mark{{Index: 0, State: batch.Queued}}, nil)
	if err := errors.Join(claimed, marked, store.CloseInput(ctx, spec.ID, 1)); err != nil {
		t.Fatal(err)
	}
	for _, r := range receipts {
		r.BatchRef = tasks.BatchRef{Batch: spec.ID}
		r.Kind, r.UserID, r.Target, r.Attempts = task.Kind(), task.User(), task.Target(), 1
		if _, _, err := store.RecordOutcomes(ctx, []tasks.Receipt{r}); err != nil {
			t.Fatal(err)
		}
	}
}

// park parks a dead letter, as a worker does at first sight of it.
func park(t *testing.T, rdb redis.UniversalClient, l deadletter.Letter) {
	t.Helper()
	ctx := t.Context()
	l.Attempts = 1
	if err := deadletter.NewStore(rdb).Park(ctx, l); err != nil {
		t.Fatal(err)
	}
	rdb.LRem(ctx, asynqx.PendingKey(tasks.QueueDeadLetter), 1, l.ID)
	rdb.HSet(ctx, asynqx.TaskKey(tasks.QueueDeadLetter, l.ID), asynqx.FieldState, "retry")
	rdb.ZAdd(ctx, asynqx.RetryKey(tasks.QueueDeadLetter), redis.Z{Score: float64(time.Now().Add(asynqx.ParkDelay).Unix()), Member: l.ID})
}

func payload(t *testing.T, task tasks.Task, in tasks.Intent) []byte {
	t.Helper()
	text, err := tasks.Encode(task, in)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

const sweepID = "sweep-019abcde-0000-7000-8000-000000000001"

// fill makes something of every source, for user "me", and something for another user.
func fill(t *testing.T, rdb redis.UniversalClient) {
	t.Helper()
	device := func(user, id string) tasks.Task { return tasks.DeviceUnbind{UserID: user, DeviceID: id} }
	dead, done := tasks.Receipt{Outcome: tasks.Dead, Reason: tasks.Forbidden}, tasks.Receipt{Outcome: tasks.Succeeded, Reason: tasks.OK}
	recordBatch(t, rdb, batch.Spec{ID: "b-1"}, device("me", "d-1"), dead, done)
	recordBatch(t, rdb, batch.Spec{ID: "b-2"}, device("other", "d-1"), done)
	recordBatch(t, rdb, batch.Spec{ID: "b-3"}, device("me", "d-3"), dead)
	recordBatch(t, rdb, batch.Spec{ID: sweepID}, tasks.LockRelease{UserID: "me", LockID: "l@1"}, done)
	recordBatch(t, rdb, batch.Spec{ID: "b-4", NoReceipts: true}, device("me", "d-4"), dead)
	singles := []tasks.Receipt{
		{Kind: tasks.KindDeviceUnbind, UserID: "me", Target: "d-5", Outcome: tasks.AlreadyGone, Reason: tasks.Gone, Attempts: 1, Source: tasks.FromSingle},
		{Kind: tasks.KindDeviceUnbind, UserID: "other", Target: "d-5", Outcome: tasks.AlreadyGone, Reason: tasks.Gone, Attempts: 1, Source: tasks.FromSingle},
		{Kind: tasks.KindDeviceUnbind, UserID: "me", Target: "d-6", Outcome: tasks.Dead, Reason: tasks.Invalid, Attempts: 1, Source: tasks.FromSingle},
	}
	if err := history.NewStore(rdb).Record(t.Context(), singles, time.Hour); err != nil {
		t.Fatal(err)
	}
	letter := func(task tasks.Task, in tasks.Intent, reason tasks.Reason) deadletter.Letter {
		return deadletter.Letter{
			ID: fmt.Sprint(in.BatchRef.Batch, ":", task.Target()), Kind: task.Kind(), Payload: payload(t, task, in), UserID: task.User(), Target: task.Target(),
			Reason: reason, DeadAt: time.Now(), Batch: in.BatchRef.Batch,
		}
	}
	park(t, rdb, letter(device("me", "d-3"), tasks.Intent{BatchRef: tasks.BatchRef{Batch: "b-3"}}, tasks.Forbidden)) // has a receipt
	park(t, rdb, letter(device("me", "d-4"), tasks.Intent{BatchRef: tasks.BatchRef{Batch: "b-4"}}, tasks.Forbidden)) // its batch has none
	park(t, rdb, letter(device("me", "d-6"), tasks.Intent{}, tasks.Invalid))                                         // has a receipt
	park(t, rdb, letter(device("other", "d-7"), tasks.Intent{}, tasks.Invalid))
	park(t, rdb, deadletter.Letter{ID: "broken", Kind: tasks.KindDeviceUnbind, Payload: []byte(`{"v":9,"user_id":"me"}`), Reason: tasks.Undecodable, DeadAt: time.Now(), UserID: "me"})
}

func TestRead(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	fill(t, rdb)
	all := []string{
		"batch d-1 dead b-1", "dead-letter d-1 succeeded b-1", "batch d-3 dead b-3", "sweep l@1 succeeded " + sweepID,
		"single d-5 already_gone ", "single d-6 dead ", "dead-letter d-4 dead b-4", "dead-letter  dead ",
	}
	for _, tc := range []struct {
		user   string
		filter userhistory.Filter
		want   []string
	}{
		{"me", userhistory.Filter{}, all},
		{"me", userhistory.Filter{DeviceID: "d-1"}, all[:2]},
		{"me", userhistory.Filter{DeviceID: "d-4"}, all[6:7]},
		{"me", userhistory.Filter{DeviceID: "d-6"}, all[5:6]},
		{"me", userhistory.Filter{LockID: "l@1"}, all[3:4]},
		{"me", userhistory.Filter{LockID: "d-1"}, nil},
		{"nobody", userhistory.Filter{}, nil},
	} {
		events, err := userhistory.Read(t.Context(), rdb, tc.user, tc.filter)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for i, r := range events {
			got = append(got, fmt.Sprint(r.Source, " ", r.Target, " ", r.Outcome, " ", r.Batch))
			if r.UserID != tc.user {
				t.Errorf("%+v is not of user %s", r, tc.user)
			}
			if i > 0 && r.At.Before(events[i-1].At) {
				t.Errorf("%+v is before its predecessor; want the oldest first", r)
			}
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("user %s, %+v (-want +got):\n%s", tc.user, tc.filter, diff)
		}
	}
}

// Half of what is known would look like all of it.
func TestRead_RedisAway(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	fill(t, rdb)
	server.Kill()
	if events, err := userhistory.Read(t.Context(), rdb, "me", userhistory.Filter{}); err == nil || events != nil {
		t.Errorf("%v, %v; want an error, and no half of the events", events, err)
	}
}
