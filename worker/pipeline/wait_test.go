package pipeline

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

// waiting is a task in Redis.
type waiting struct {
	t      *testing.T
	rdb    *redis.Client
	d      Delivery
	waited func(context.Context, Delivery, time.Duration) (bool, error)
}

func newWaiting(t *testing.T, replay bool) *waiting {
	t.Helper()
	w := &waiting{t: t, rdb: redistest.Start(t).Client(), d: delivery(unbindPayload)}
	if w.d.Replay = replay; replay {
		w.d.Queue = tasks.QueueDeadLetter
	}
	w.waited = NewWaited(w.rdb)
	order := asynqx.Order{ID: w.d.ID, Kind: w.d.Kind, Queue: w.d.Queue, Payload: w.d.Payload}
	if err := asynqx.EnqueueAll(t.Context(), w.rdb, []asynqx.Order{order}); err != nil {
		t.Fatal(err)
	}
	return w
}

const testMaxWait = 24 * time.Hour

func (w *waiting) want(what string, tooLong bool) {
	w.t.Helper()
	got, err := w.waited(w.t.Context(), w.d, testMaxWait)
	if err != nil || got != tooLong {
		w.t.Errorf("%s: too long: %t, %v; want %t", what, got, err, tooLong)
	}
}

// pass lets time pass, in which the task waits again and again, or does not wait.
func (w *waiting) pass(d time.Duration, waits bool) {
	w.t.Helper()
	fields := []string{"kooworker_waits_since", "kooworker_waited_at"}
	if waits {
		fields = fields[:1]
	}
	for _, field := range fields {
		if err := w.rdb.HIncrBy(w.t.Context(), asynqx.TaskKey(w.d.Queue, w.d.ID), field, -int64(d.Seconds())).Err(); err != nil {
			w.t.Fatal(err)
		}
	}
}

func TestWaited_CountsOneWait(t *testing.T) {
	t.Parallel()
	w := newWaiting(t, false)
	w.want("at first", false)
	w.pass(testMaxWait-time.Minute, true)
	w.want("a minute before the end", false)
	w.waited = NewWaited(w.rdb) // another worker, or this one after a restart
	w.pass(time.Minute, true)
	w.want("at the end", true)
	w.want("if it cannot be parked yet", true)

	w.pass(waitGap+time.Minute, false) // it waited for KooDrive, say
	w.want("another wait", false)
	w.pass(-time.Hour, true)
	w.want("after the clock of Redis was set back", false)
	w.pass(testMaxWait-time.Minute, true)
	w.want("a minute before the end of the other wait", false)
	w.pass(time.Minute, true)
	w.want("at the end of the other wait", true)
}

func TestWaited_ReplayBeginsAnotherWait(t *testing.T) {
	t.Parallel()
	w := newWaiting(t, true)
	w.want("at first", false)
	w.pass(testMaxWait, true)
	w.want("at the end", true)
	w.want("in the next replay", false)
}

// A hash without a message would occupy the ID of the task.
func TestWaited_LeavesNothingOfATaskThatIsGone(t *testing.T) {
	t.Parallel()
	w := newWaiting(t, false)
	key := asynqx.TaskKey(w.d.Queue, w.d.ID)
	w.rdb.Del(t.Context(), key)
	w.want("gone", false)
	if n := w.rdb.Exists(t.Context(), key).Val(); n != 0 {
		t.Error("the wait made a hash of a task that is gone; want none")
	}
}

func TestWaited_RedisFails(t *testing.T) {
	t.Parallel()
	w := newWaiting(t, false)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if tooLong, err := w.waited(ctx, w.d, testMaxWait); tooLong || err == nil {
		t.Errorf("too long: %t, %v; want an error", tooLong, err)
	}
}

// A wait for something other than KooDrive and Redis has an end.
func TestProcess_WaitEnds(t *testing.T) {
	t.Parallel()
	wait := func(kind func(Problem) Result) *bundle {
		b := setup(t, tasks.OK)
		b.jobs.do = func(context.Context, tasks.Task) Result {
			return kind(Problem{Reason: tasks.Waiting, Detail: "no source", RetryAfter: 42 * time.Second})
		}
		return b
	}
	d := delivery(unbindPayload)
	b := wait(Wait)
	b.waited = b.policy.MaxWait - time.Second
	if v := b.Process(t.Context(), d); v.Action != Retry || v.CountsAsAttempt || v.Delay != 42*time.Second {
		t.Errorf("%+v; want it to wait 42s more, uncharged", v)
	}
	b.waited += time.Second
	b.waitErr = errAway
	if v := b.Process(t.Context(), d); v.Action != Retry || v.CountsAsAttempt {
		t.Errorf("%+v while the wait cannot be noted; want it to wait, uncharged", v)
	}
	b.waitErr = nil
	const want = "waiting: no source; it has waited for 24h0m0s"
	if v := b.Process(t.Context(), d); v.Action != Park || v.Outcome != tasks.Dead || v.CountsAsAttempt || ToAsynqError(d, v) != nil {
		t.Errorf("%+v; want it dead after 24h", v)
	}
	if len(b.store.parked) != 1 || b.store.parked[0].Reason != tasks.Waiting || b.store.parked[0].Error != want || b.store.parked[0].Attempts != 0 {
		t.Errorf("parked %+v; want one letter that says %q", b.store.parked, want)
	}
	for name, kind := range map[string]func(Problem) Result{"snooze": Snooze, "outage": Outage} {
		b := wait(kind)
		b.waited = 1000 * time.Hour
		if v := b.Process(t.Context(), d); v.Action != Retry || b.waits != 0 {
			t.Errorf("%s: %+v, noted %d times; want it to wait for as long as KooDrive or Redis takes", name, v, b.waits)
		}
	}
}
