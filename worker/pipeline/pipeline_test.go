package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeJobs runs do, and records the tasks.
type fakeJobs struct {
	do    func(context.Context, tasks.Task) Result
	calls []string
}

func (f *fakeJobs) Do(ctx context.Context, j Job) Result {
	f.calls = append(f.calls, tasks.Identity(j.Task))
	return f.do(ctx, j.Task)
}

// fakeStore records what was parked or requeued, or fails with err.
type fakeStore struct {
	err         error
	errParkOnly bool // Requeue succeeds in spite of err
	parked      []deadletter.Letter
	requeued    []time.Duration
}

func (f *fakeStore) Park(_ context.Context, l deadletter.Letter) error {
	if f.err == nil {
		f.parked = append(f.parked, l)
	}
	return f.err
}

func (f *fakeStore) Requeue(_ context.Context, _ Delivery, delay time.Duration) error {
	if f.err != nil && !f.errParkOnly {
		return f.err
	}
	f.requeued = append(f.requeued, delay)
	return nil
}

// fakeReceipts records receipts, or fails with err.
type fakeReceipts struct {
	err      error
	receipts []tasks.Receipt
}

func (f *fakeReceipts) Record(ctx context.Context, r tasks.Receipt) error {
	if f.err == nil && ctx.Err() == nil {
		f.receipts = append(f.receipts, r)
	}
	return errors.Join(f.err, ctx.Err())
}

type bundle struct {
	*Pipeline
	jobs     *fakeJobs
	store    *fakeStore
	receipts *fakeReceipts
	logs     *observer.ObservedLogs
	now      time.Time
	waited   time.Duration // of a task that waits
	waitErr  error
	waits    int // that were noted
}

func (b *bundle) noteWait(_ context.Context, _ Delivery, most time.Duration) (tooLong bool, err error) {
	b.waits++
	return b.waited >= most, b.waitErr
}

// resultOf is the result of a job for an answer of KooDrive.
func resultOf(reason tasks.Reason) Result {
	switch reason {
	case tasks.OK:
		return Done(nil)
	case tasks.Gone:
		return AlreadyGone()
	default:
		return Failed(Problem{Reason: reason, Detail: "said so", Hint: "do this"})
	}
}

func setup(t *testing.T, reason tasks.Reason) *bundle {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	b := &bundle{
		jobs:  &fakeJobs{do: func(context.Context, tasks.Task) Result { return resultOf(reason) }},
		store: &fakeStore{}, receipts: &fakeReceipts{}, logs: logs,
		now: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC),
	}
	p, err := New(Config{Jobs: b.jobs, DeadLetters: b.store, Requeue: b.store.Requeue, Waited: b.noteWait, Receipts: b.receipts, Logger: zap.New(core), Now: func() time.Time { return b.now }})
	if err != nil {
		t.Fatal(err)
	}
	b.Pipeline = p
	return b
}

func delivery(payload string) Delivery {
	return Delivery{ID: "id-1", Queue: tasks.QueueUnbind, Kind: tasks.KindDeviceUnbind, Payload: []byte(payload), RetryLimit: tasks.MaxRetry}
}

const unbindPayload = `{"v":1,"user_id":"u","device_id":"d"}`

func TestProcess_SuccessIsComplete(t *testing.T) {
	t.Parallel()
	for reason, outcome := range map[tasks.Reason]tasks.Outcome{tasks.OK: tasks.Succeeded, tasks.Gone: tasks.AlreadyGone} {
		b := setup(t, reason)
		d := delivery(unbindPayload)
		v := b.Process(t.Context(), d)
		if v.Action != Complete || v.Outcome != outcome || v.Error != "" || ToAsynqError(d, v) != nil {
			t.Errorf("%s: %+v; want it complete as %s", reason, v, outcome)
		}
		if len(b.store.parked) != 0 {
			t.Errorf("%s: parked; want no letter", reason)
		}
	}
}

// A task of a batch that is cancelled makes no call, and its receipt says why. One that
// was done before keeps its outcome, whose receipt is still owed.
func TestProcess_CancelledTaskDoesNotRun(t *testing.T) {
	t.Parallel()
	const payload = `{"v":1,"user_id":"u","device_id":"d","batch":"b","index":7}`
	for why, reason := range map[string]tasks.Reason{"": "cancelled", "wrong file": "cancelled: wrong file"} {
		for _, replay := range []bool{false, true} {
			b := setup(t, tasks.OK)
			b.cancelled = func(ref tasks.BatchRef, task tasks.Task) (string, bool) {
				return why, ref.Batch == "b" && task.User() == "u"
			}
			d := delivery(payload)
			d.Attempts, d.Replay = 3, replay
			decision := b.Process(t.Context(), d)
			if decision.Action != Complete || decision.Outcome != tasks.Cancelled || decision.Reason != tasks.CalledOff || ToAsynqError(d, decision) != nil {
				t.Errorf("%+v; want it complete as cancelled", decision)
			}
			want := tasks.Receipt{
				BatchRef: tasks.BatchRef{Batch: "b", Index: 7}, Kind: tasks.KindDeviceUnbind, UserID: "u", Target: "d",
				Outcome: tasks.Cancelled, Reason: reason, Attempts: 3,
			}
			if diff := cmp.Diff([]tasks.Receipt{want}, b.receipts.receipts); diff != "" || len(b.jobs.calls) != 0 || len(b.store.parked) != 0 {
				t.Errorf("%d calls, %d parked; want none; receipts (-want +got):\n%s", len(b.jobs.calls), len(b.store.parked), diff)
			}
			if b.logs.FilterMessage("cancelled").Len() != 1 {
				t.Errorf("the log has %v; want a line that it is cancelled", b.logs.All())
			}
		}
	}
	b := setup(t, tasks.OK)
	b.receipts.err = errors.New("wrong type")
	b.Process(t.Context(), delivery(payload))
	b.cancelled = func(tasks.BatchRef, tasks.Task) (string, bool) { return "", true }
	b.receipts.err = nil
	if decision := b.Process(t.Context(), delivery(payload)); decision.Outcome != tasks.Succeeded || len(b.jobs.calls) != 1 {
		t.Errorf("%+v after %d calls; want it succeeded, as it did before it was cancelled", decision, len(b.jobs.calls))
	}
}

// A task of a batch that is held is put back until the hold ends, uncharged.
func TestProcess_HeldTaskIsPutBack(t *testing.T) {
	t.Parallel()
	b := setup(t, tasks.OK)
	b.held = func(ref tasks.BatchRef) (time.Time, string, bool) {
		return b.now.Add(time.Hour), "legal hold", ref.Batch == "b"
	}
	d := delivery(`{"v":1,"user_id":"u","device_id":"d","batch":"b","index":7}`)
	decision := b.Process(t.Context(), d)
	if decision.Action != Retry || decision.CountsAsAttempt || decision.Delay != time.Hour || !strings.Contains(decision.Error, "legal hold") || len(b.jobs.calls) != 0 {
		t.Errorf("%+v, %d calls; want it put back for an hour, uncharged", decision, len(b.jobs.calls))
	}
	if decision := b.Process(t.Context(), delivery(unbindPayload)); decision.Action != Complete {
		t.Errorf("%+v; want a single order to run", decision)
	}
}

func TestProcess_DeadTaskIsParkedBeforeItIsRemoved(t *testing.T) {
	t.Parallel()
	b := setup(t, tasks.Forbidden)
	d := delivery(unbindPayload)
	v := b.Process(t.Context(), d)
	if err := ToAsynqError(d, v); err != nil {
		t.Fatalf("asynq keeps the original: %v; want nil", err)
	}
	want := []deadletter.Letter{{
		ID: d.ID, Kind: d.Kind, Queue: d.Queue, Payload: d.Payload, UserID: "u", Target: "d", Attempts: 1,
		Reason: tasks.Forbidden, Error: "forbidden: said so",
	}}
	if diff := cmp.Diff(want, b.store.parked, cmpopts.IgnoreFields(deadletter.Letter{}, "DeadAt")); diff != "" {
		t.Errorf("parked (-want +got):\n%s", diff)
	}
}

func TestProcess_FailedParkingStaysUncharged(t *testing.T) {
	t.Parallel()
	b := setup(t, tasks.Forbidden)
	b.store.err = errAway
	d := delivery(unbindPayload)
	v := b.Process(t.Context(), d)
	if v.Action != Retry || v.CountsAsAttempt || v.Delay <= 0 {
		t.Fatalf("%+v; want it put back uncharged", v)
	}
	err := ToAsynqError(d, v)
	if err == nil || IsFailure(err) {
		t.Errorf("asynq gets %v; want an error that does not count", err)
	}
}

func TestProcess_UndecodableIsParkedWithItsBytes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		kind    tasks.Kind
		payload string
		reason  tasks.Reason
	}{
		{tasks.KindDeviceUnbind, "\xff not json", tasks.Undecodable},
		{tasks.KindDeviceUnbind, `{"v":1,"user_id":"u","device_id":"../../lock"}`, tasks.Undecodable},
		{"device:unbindX", unbindPayload, tasks.UnknownKind},
	} {
		b := setup(t, tasks.OK)
		d := delivery(tc.payload)
		d.Kind = tc.kind
		v := b.Process(t.Context(), d)
		if v.Action != Park || v.Reason != tc.reason || len(b.jobs.calls) != 0 {
			t.Errorf("%q: %+v, calls %v; want it parked as %s without a call", tc.payload, v, b.jobs.calls, tc.reason)
		}
		if len(b.store.parked) != 1 || string(b.store.parked[0].Payload) != tc.payload || b.store.parked[0].UserID != "" {
			t.Errorf("%q: parked %+v; want its bytes", tc.payload, b.store.parked)
		}
	}
}

// outage is a job whose call fails for everybody alike.
func outage(reason tasks.Reason) func(context.Context, tasks.Task) Result {
	return func(context.Context, tasks.Task) Result {
		return Outage(Problem{Reason: reason, Detail: "said so", Hint: "do this"})
	}
}

func TestToAsynqError_UnchargedErrorsDoNotCount(t *testing.T) {
	t.Parallel()
	for _, reason := range []tasks.Reason{tasks.Throttled, tasks.Unauthorized, tasks.Misrouted} {
		b := setup(t, reason)
		b.jobs.do = outage(reason)
		d := delivery(unbindPayload)
		err := ToAsynqError(d, b.Process(t.Context(), d))
		if err == nil || IsFailure(err) || err.Error() != string(reason)+": said so" {
			t.Errorf("%s: asynq gets %v; want an error that does not count", reason, err)
		}
	}
}

// A plain asynq client may set a lower retry limit than we do. At the limit asynq
// archives the task whatever the handler returns, so the task must leave its queue
// before.
func TestProcess_SmallRetryLimitNeverReachesAsynqsArchive(t *testing.T) {
	t.Parallel()
	d := delivery(unbindPayload)
	d.Retries, d.Attempts, d.RetryLimit = 3, 3, 3

	b := setup(t, tasks.Upstream)
	if v := b.Process(t.Context(), d); ToAsynqError(d, v) != nil || len(b.store.parked) != 1 {
		t.Errorf("its own failure: %+v, parked %d; want it parked", v, len(b.store.parked))
	}
	b = setup(t, tasks.Throttled)
	if v := b.Process(t.Context(), d); ToAsynqError(d, v) != nil || len(b.store.requeued) != 1 || len(b.store.parked) != 0 {
		t.Errorf("not its fault: %+v, requeued %v, parked %d; want it requeued", v, b.store.requeued, len(b.store.parked))
	}
}

// The task is dead and at its retry limit, but its letter cannot be stored yet.
func TestProcess_FailedParkingIsRequeuedBeforeAsynqArchivesIt(t *testing.T) {
	t.Parallel()
	b := setup(t, tasks.Forbidden)
	b.store.err, b.store.errParkOnly = errors.New("a copy is being replayed"), true
	d := delivery(unbindPayload)
	d.RetryLimit = 0
	v := b.Process(t.Context(), d)
	if err := ToAsynqError(d, v); err != nil || len(b.store.requeued) != 1 {
		t.Errorf("asynq gets %v, requeued %v; want it requeued, since asynq would archive it", err, b.store.requeued)
	}
}

func TestProcess_FailedReplayIsDeadInItsPlace(t *testing.T) {
	t.Parallel()
	d := delivery(unbindPayload)
	d.Queue, d.Replay, d.Retries, d.Attempts = tasks.QueueDeadLetter, true, 1, 12

	b := setup(t, tasks.Upstream)
	err := ToAsynqError(d, b.Process(t.Context(), d))
	if err == nil || len(b.store.parked) != 0 || !IsFailure(err) || RetryDelay(0, err, nil) < asynqx.ParkDelay {
		t.Errorf("asynq gets %v, parked again %d; want it dead where it is", err, len(b.store.parked))
	}
	b = setup(t, tasks.Throttled)
	err = ToAsynqError(d, b.Process(t.Context(), d))
	if err == nil || IsFailure(err) || RetryDelay(0, err, nil) > time.Minute {
		t.Errorf("throttled: asynq gets %v; want it to stay a replay", err)
	}
	d.Retries = d.RetryLimit - 1
	b = setup(t, tasks.Upstream)
	if err := ToAsynqError(d, b.Process(t.Context(), d)); err == nil || IsFailure(err) {
		t.Errorf("one retry before asynq's limit: asynq gets %v; want an error that does not count", err)
	}
}

func TestProcess_PanicIsAnAttempt(t *testing.T) {
	t.Parallel()
	b := setup(t, tasks.OK)
	b.jobs.do = func(context.Context, tasks.Task) Result { panic("secret-in-a-panic") }
	d := delivery(unbindPayload)
	v := b.Process(t.Context(), d)
	if v.Action != Retry || !v.CountsAsAttempt || v.Reason != tasks.Panicked || strings.Contains(v.Error, "secret") {
		t.Errorf("%+v; want a charged retry without the panic's text", v)
	}
	entries := b.logs.FilterMessageSnippet("panic").All()
	if len(entries) != 1 || !strings.Contains(fmt.Sprint(entries[0].ContextMap()["stack"]), "TestProcess_PanicIsAnAttempt") {
		t.Errorf("log %v; want one line with the stack", entries)
	}
}

func TestProcess_ExpiredIsDeadWithoutACall(t *testing.T) {
	t.Parallel()
	b := setup(t, tasks.OK)
	v := b.Process(t.Context(), delivery(`{"v":1,"user_id":"u","device_id":"d","not_after":"2026-05-01T11:59:59Z"}`))
	if v.Action != Park || v.Reason != tasks.Expired || len(b.jobs.calls) != 0 || len(b.store.parked) != 1 {
		t.Errorf("%+v, calls %v; want it parked as expired without a call", v, b.jobs.calls)
	}
}

func TestProcess_InterruptedCallIsNotCharged(t *testing.T) {
	t.Parallel()
	b := setup(t, tasks.OK)
	ctx, cancel := context.WithCancel(t.Context())
	b.jobs.do = func(context.Context, tasks.Task) Result {
		cancel()
		return Failed(Problem{Reason: tasks.TimedOut, Hint: tasks.TimedOut.Hint()})
	}
	d := delivery(unbindPayload)
	d.Attempts = 11
	if v := b.Process(ctx, d); v.Action != Retry || v.CountsAsAttempt || v.Reason != tasks.Waiting || len(b.store.parked) != 0 {
		t.Errorf("%+v; want an uncharged retry that waits", v)
	}
	// Nothing is wrong with KooDrive or the call timeout.
	if alarms := b.logs.FilterLevelExact(zap.ErrorLevel).All(); len(alarms) != 0 {
		t.Errorf("%v; want no alarm", alarms)
	}
}

func TestProcess_SnoozeAndOutageAreNotCharged(t *testing.T) {
	t.Parallel()
	for _, result := range []func(Problem) Result{Snooze, Outage} {
		b := setup(t, tasks.OK)
		b.jobs.do = func(context.Context, tasks.Task) Result {
			return result(Problem{Reason: tasks.Upstream, RetryAfter: 42 * time.Second})
		}
		d := delivery(unbindPayload)
		d.Attempts = 11
		if v := b.Process(t.Context(), d); v.Action != Retry || v.CountsAsAttempt || v.Delay != 42*time.Second || len(b.store.parked) != 0 {
			t.Errorf("%+v; want an uncharged retry in 42s", v)
		}
	}
}

func TestProcess_CallEndsBeforeAsynqsDeadline(t *testing.T) {
	t.Parallel()
	b := setup(t, tasks.OK)
	b.now = time.Now()
	deadline := b.now.Add(time.Minute)
	ctx, cancel := context.WithDeadline(t.Context(), deadline)
	defer cancel()
	b.jobs.do = func(ctx context.Context, _ tasks.Task) Result {
		if got, ok := ctx.Deadline(); !ok || !got.Before(deadline) {
			t.Errorf("the call's deadline is %s; want it before %s", got, deadline)
		}
		return Done(nil)
	}
	b.Process(ctx, delivery(unbindPayload))
}

// Without the lines of successes, all others are written.
func TestAttemptLog_NoSuccesses(t *testing.T) {
	t.Parallel()
	for reason, want := range map[tasks.Reason]int{tasks.OK: 0, tasks.Gone: 0, tasks.Outdated: 1, tasks.Forbidden: 1} {
		b := setup(t, reason)
		b.Pipeline.log.noSuccesses = true
		b.Process(t.Context(), delivery(unbindPayload))
		if n := b.logs.Len(); n != want {
			t.Errorf("%s: %d lines; want %d: %v", reason, n, want, b.logs.All())
		}
	}
}

func TestAttemptLog_AlarmsAreWrittenNowAndThen(t *testing.T) {
	t.Parallel()
	b := setup(t, tasks.Misrouted)
	b.jobs.do = outage(tasks.Misrouted)
	for range 50 {
		b.Process(t.Context(), delivery(unbindPayload))
	}
	alarms := b.logs.FilterMessage(alarmMessages[tasks.Misrouted])
	if alarms.Len() != 1 || alarms.All()[0].ContextMap()["hint"] != "do this" || alarms.All()[0].ContextMap()["reason"] != "misrouted" {
		t.Fatalf("alarms %v; want one with the hint and the reason", alarms.All())
	}
	b.now = b.now.Add(alarmEvery)
	b.Process(t.Context(), delivery(unbindPayload))
	if again := b.logs.FilterMessage(alarmMessages[tasks.Misrouted]); again.Len() != 2 || again.All()[1].ContextMap()["since_last"] != int64(50) {
		t.Errorf("alarms %v; want a second one for 50 attempts", again.All())
	}
}

func TestProcess_ObserverSeesEveryAttempt(t *testing.T) {
	t.Parallel()
	var seen []Event
	jobs := &fakeJobs{do: func(context.Context, tasks.Task) Result { return AlreadyGone() }}
	p, err := New(Config{Jobs: jobs, DeadLetters: &fakeStore{}, Requeue: (&fakeStore{}).Requeue, Waited: (&bundle{}).noteWait, Receipts: &fakeReceipts{}, Observe: func(e Event) { seen = append(seen, e) }})
	if err != nil {
		t.Fatal(err)
	}
	p.Process(t.Context(), delivery(unbindPayload))
	p.Process(t.Context(), delivery("{"))
	if len(seen) != 2 || seen[0].Decision.Outcome != tasks.AlreadyGone || seen[1].Decision.Outcome != tasks.Dead || seen[1].Task != nil {
		t.Errorf("events %+v; want one of the done task and one of the bytes that are no task", seen)
	}
}

// TestToAsynqError_TextFromStrangers gives asynq no text that its protobuf refuses.
// asynq could not put the task back, and would try for ever.
func TestToAsynqError_TextFromStrangers(t *testing.T) {
	t.Parallel()
	const gbk = "database \xd6\xd0\xce\xc4 \"x\" does not exist\nline 2"
	b := setup(t, "")
	b.jobs.do = func(context.Context, tasks.Task) Result {
		return Failed(Problem{Reason: tasks.Rejected, Detail: gbk + strings.Repeat("a", 100_000)})
	}
	for _, replay := range []bool{false, true} {
		d := delivery(unbindPayload)
		d.Replay = replay
		text := ToAsynqError(d, b.Process(t.Context(), d)).Error()
		if !utf8.ValidString(text) || len(text) > 2000 || !strings.HasPrefix(text, `rejected: database ???? "x" does not exist line 2a`) {
			t.Errorf("replay %t: asynq is given %.100q, of %d bytes; want it valid, on one line, and bounded", replay, text, len(text))
		}
	}
}
