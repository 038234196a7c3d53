package enqueue_test

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/asynqx/wrongclock"
	"github.com/kooworker/kooworker/tasks"
)

// TestIn_WrongClock enqueues on machines whose clocks are wrong. The delay goes by
// Redis' clock, also if this machine's clock has passed the due time already.
func TestIn_WrongClock(t *testing.T) {
	t.Parallel()
	const delay = 20 * time.Second
	for name, ahead := range map[string]time.Duration{"right": 0, "ahead": 10 * time.Minute, "behind": -10 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			rdb, clock := b.redis.Client(), wrongclock.New(ahead)
			rdb.AddHook(clock)
			client, err := enqueue.New(enqueue.Config{Redis: rdb})
			if err != nil {
				t.Fatal(err)
			}
			deadline := enqueue.Deadline(time.Now().Add(-ahead).Add(time.Minute))
			res, err := client.Unbind(t.Context(), unbind, enqueue.In(delay), deadline)
			if err != nil || res.Status != enqueue.Enqueued {
				t.Fatalf("%+v, %v; want it enqueued", res, err)
			}
			if _, err := client.Bulk(t.Context(), unbinds(3), enqueue.BulkOptions{Options: []enqueue.Option{enqueue.In(delay)}}); err != nil {
				t.Fatal(err)
			}
			var due []redis.Z
			for _, lane := range unbindLanes(t, b.inspector) {
				due = append(due, b.rdb.ZRangeWithScores(t.Context(), "asynq:{"+lane+"}:scheduled", 0, -1).Val()...)
			}
			if len(due) != 4 {
				t.Fatalf("scheduled: %v; want 4", due)
			}
			for _, z := range due {
				in := time.Until(time.Unix(int64(z.Score), 0)) + ahead // by Redis' clock
				if in < delay-2*time.Second || in > delay+time.Second {
					t.Errorf("%s is due in %s by Redis' clock; want %s", z.Member, in, delay)
				}
			}
			if again, err := client.Unbind(t.Context(), unbind, enqueue.In(2*delay), deadline); err != nil || again.Status != enqueue.Duplicate || again.ID != res.ID {
				t.Errorf("once more: %+v, %v; want a duplicate of %s", again, err, res.ID)
			}
			if names := b.rdb.SMembers(t.Context(), "asynq:queues").Val(); len(names) != 2 {
				t.Errorf("the queues are %v; want the two that were used", names)
			}
		})
	}
}

// TestAt_WrongClock enqueues for a time on machines whose clocks are wrong.
func TestAt_WrongClock(t *testing.T) {
	t.Parallel()
	for name, ahead := range map[string]time.Duration{"right": 0, "ahead": 10 * time.Minute, "behind": -10 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			rdb := b.redis.Client()
			rdb.AddHook(wrongclock.New(ahead))
			client := newClient(t, rdb)
			now := time.Now().Add(-ahead) // by Redis' clock
			at := now.Add(30*24*time.Hour + 300*time.Millisecond)
			res, err := client.Unbind(t.Context(), unbind, enqueue.At(at))
			if err != nil || res.Status != enqueue.Enqueued || res.RunAt.Before(at) || res.RunAt.Sub(at) > time.Second {
				t.Fatalf("%+v, %v; want it enqueued for %v", res, err, at)
			}
			if _, err := client.Bulk(t.Context(), unbinds(3), enqueue.BulkOptions{Batch: &batch.Spec{ID: "b"}, Options: []enqueue.Option{enqueue.At(at)}}); err != nil {
				t.Fatal(err)
			}
			past := enqueue.At(now.Add(-time.Minute))
			if res, err = client.Unbind(t.Context(), tasks.DeviceUnbind{UserID: "u", DeviceID: "late"}, past); err != nil || res.Status != enqueue.Enqueued {
				t.Errorf("a time that has passed: %+v, %v; want it enqueued", res, err)
			}
			waiting, due := 0, 0
			for _, lane := range unbindLanes(t, b.inspector) {
				waiting += int(b.rdb.LLen(t.Context(), "asynq:{"+lane+"}:pending").Val())
				for _, z := range b.rdb.ZRangeWithScores(t.Context(), "asynq:{"+lane+"}:scheduled", 0, -1).Val() {
					due++
					if z.Score != float64(at.Unix()+1) {
						t.Errorf("%s is due at %v; want %d", z.Member, z.Score, at.Unix()+1)
					}
				}
			}
			if waiting != 1 || due != 4 {
				t.Errorf("%d tasks wait for a worker and %d for their time; want 1 and 4", waiting, due)
			}
		})
	}
}

func TestAt_Refused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	soon := time.Now().Add(time.Hour)
	for problem, opts := range map[string][]enqueue.Option{
		"want one of them":       {enqueue.At(soon), enqueue.In(time.Minute)},
		"in less than 290 years": {enqueue.At(soon.AddDate(400, 0, 0))},
		"before which the task":  {enqueue.At(soon), enqueue.Deadline(soon)},
	} {
		if res, err := b.client.Unbind(t.Context(), unbind, opts...); err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("%+v, %v; want an error that says %q", res, err, problem)
		}
	}
	if n := len(b.rdb.Keys(t.Context(), "asynq:*").Val()); n != 0 {
		t.Errorf("%d keys of asynq; want none", n)
	}
}

// TestIn_AsksForTheTimeOnce counts the questions of a client.
func TestIn_AsksForTheTimeOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	rdb := b.redis.Client()
	client, err := enqueue.New(enqueue.Config{Redis: rdb})
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range []tasks.DeviceUnbind{{UserID: "u", DeviceID: "1"}, {UserID: "u", DeviceID: "2"}, {UserID: "u", DeviceID: "3"}} {
		if _, err := client.Unbind(t.Context(), task, enqueue.In(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Unbind(t.Context(), tasks.DeviceUnbind{UserID: "now", DeviceID: task.DeviceID}); err != nil {
			t.Fatal(err)
		}
	}
	stats, err := b.rdb.InfoMap(t.Context(), "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	if got := stats["Commandstats"]["cmdstat_time"]; len(got) < 8 || got[:8] != "calls=1," {
		t.Errorf("TIME was asked for: %q; want once", got)
	}
	b.redis.Kill()
	if _, err := newClient(t, b.redis.Client()).Unbind(t.Context(), unbind, enqueue.In(time.Hour)); err == nil {
		t.Error("enqueued without Redis; want an error")
	}
}

func newClient(t *testing.T, rdb redis.UniversalClient) *enqueue.Client {
	t.Helper()
	client, err := enqueue.New(enqueue.Config{Redis: rdb})
	if err != nil {
		t.Fatal(err)
	}
	return client
}
