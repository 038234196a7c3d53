package jobs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/batch"
	enqueuelocks "github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/gate/quota"
	"github.com/kooworker/kooworker/worker/koodrive"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// Each new kind needs an example here.
func TestDo_EveryKindHasItsJob(t *testing.T) {
	t.Parallel()
	examples := []tasks.Task{
		unbindTask, namedRelease, tasks.UserOffboard{UserID: "u"},
		tasks.LockSweep{Source: tasks.SourceSQL}, // this worker does not know the source
		tasks.BatchWebhook{BatchID: "b"},         // this worker has no webhook
	}
	for _, kind := range tasks.Kinds() {
		i := slices.IndexFunc(examples, func(t tasks.Task) bool { return t.Kind() == kind })
		if i < 0 {
			t.Errorf("%s has no example; add one above", kind)
			continue
		}
		u := &fakeUser{bundle: setup(t, gate.Config{})}
		u.Jobs.children = u
		if r := u.do(examples[i]); r == (pipeline.Result{}) {
			t.Errorf("%s: no result; want one of package pipeline's constructors", kind)
		}
	}
}

// A broker that knows no token for a user, and an id that the client refuses, end
// the task before KooDrive is called. That is no sign that KooDrive works.
func TestReport_NoCallIsNoGoodProbe(t *testing.T) {
	t.Parallel()
	for _, reason := range []tasks.Reason{tasks.Forbidden, tasks.Invalid} {
		synctest.Test(t, func(t *testing.T) {
			b := setup(t, outage)
			b.answer = koodrive.Answer{Reason: tasks.Upstream, Status: 503}
			for _, user := range []string{"a", "b", "c"} {
				b.do(tasks.DeviceUnbind{UserID: user, DeviceID: "d"})
			}
			b.answer = koodrive.Answer{Reason: reason, Message: "no call was made"}
			for range 10 {
				time.Sleep(2 * time.Minute) //nolint:forbidigo // in a synctest bubble
				if r := b.do(unbindTask); r.Kind != pipeline.IsFailed || r.Reason != reason {
					t.Errorf("%s: %+v; want it to be the task's own", reason, r)
				}
			}
			if s := b.gate.Status(); s.Breakers[gate.Unbind].State == gate.Closed || s.InFlight != 0 {
				t.Errorf("%s: the gate is %+v; want it not closed by answers that are not KooDrive's, and nothing in flight", reason, s)
			}
			b.answer = koodrive.Answer{Reason: reason, Status: 403} // KooDrive's own
			b.do(unbindTask)
			if s := b.gate.Status(); s.Breakers[gate.Unbind].State != gate.Closed {
				t.Errorf("%s: the gate is %+v; want it closed by an answer of KooDrive's", reason, s)
			}
		})
	}
}

func TestGateAnswer_TellsOfTheQuota(t *testing.T) {
	t.Parallel()
	told := koodrive.Limit{Calls: 100, Window: time.Minute, Dimension: "user", HasRemaining: true, Reset: 9 * time.Second}
	limit := quota.Limit{Calls: 100, Window: time.Minute, Dimension: "user"}
	for _, tc := range []struct {
		answer koodrive.Answer
		want   gate.Answer
	}{
		{koodrive.Answer{Reason: tasks.OK, Limit: told}, gate.Answer{Reason: tasks.OK, Limit: limit}},
		{koodrive.Answer{Reason: tasks.Throttled, Limit: told}, gate.Answer{Reason: tasks.Throttled, Limit: limit, RetryAfter: 9 * time.Second}},
		{
			koodrive.Answer{Reason: tasks.Throttled, Limit: told, RetryAfter: time.Second},
			gate.Answer{Reason: tasks.Throttled, Limit: limit, RetryAfter: time.Second},
		},
	} {
		if got := GateAnswer(tc.answer); got != tc.want {
			t.Errorf("%+v: got %+v; want %+v", tc.answer, got, tc.want)
		}
	}
}

// Only what is about Redis itself may make a task wait for as long as it takes.
func TestUnavailable_WaitsForeverForRedisOnly(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	rdb.Set(t.Context(), "text", "x", 0)
	reply := func(cmd redis.Cmder) error { return fmt.Errorf("read it: %w", cmd.Err()) }
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	closed := redistest.Start(t)
	gone := closed.Client()
	closed.Kill()
	shut := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	if err := shut.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		err  error
		want pipeline.ResultKind
	}{
		"no server":          {reply(gone.Get(t.Context(), "x")), pipeline.IsSnooze},
		"a closed client":    {reply(shut.Get(t.Context(), "x")), pipeline.IsSnooze},
		"the time is over":   {reply(rdb.Get(canceled, "x")), pipeline.IsSnooze},
		"a full Redis":       {reply(rdb.Eval(t.Context(), `return redis.error_reply("OOM command not allowed")`, nil)), pipeline.IsSnooze},
		"a broken line":      {fmt.Errorf("read it: %w", io.ErrUnexpectedEOF), pipeline.IsSnooze},
		"another type":       {reply(rdb.HGet(t.Context(), "text", "f")), pipeline.IsWait},
		"a script's error":   {reply(rdb.Eval(t.Context(), `return 1 + {}`, nil)), pipeline.IsWait},
		"an unknown one":     {errors.New("cannot read 3 values"), pipeline.IsWait},
		"no number":          {reply(rdb.IncrBy(t.Context(), "text", 1)), pipeline.IsWait},
		"no number was read": {func() error { _, err := rdb.Get(t.Context(), "text").Int(); return err }(), pipeline.IsFailed},
		"a wrong id":         {fmt.Errorf("claim: %w", unbindWrong.Validate()), pipeline.IsFailed},
		"an unreadable lock": {&enqueuelocks.UnreadableError{Member: "u l", Expiry: "inf"}, pipeline.IsFailed},
		"a full batch":       {&batch.FullError{ID: "b"}, pipeline.IsFailed},
	} {
		r := unavailable(c.err)
		reason := tasks.Waiting
		if c.want == pipeline.IsFailed {
			reason = tasks.Invalid
		}
		if r.Kind != c.want || r.Reason != reason || r.Detail != c.err.Error() {
			t.Errorf("%s, %v: %+v; want kind %d", name, c.err, r, c.want)
		}
	}
}

var unbindWrong = tasks.DeviceUnbind{UserID: "u", DeviceID: "a/b"}
