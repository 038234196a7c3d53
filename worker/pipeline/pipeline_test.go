package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/kooworker/kooworker/tasks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeAPI answers as it is told.
type fakeAPI struct {
	do    func(context.Context, tasks.Task) Answer
	bound func(tasks.DeviceUnbind) (time.Time, Answer)
	calls []string
}

func (f *fakeAPI) Do(ctx context.Context, t tasks.Task, _ tasks.Intent) Answer {
	f.calls = append(f.calls, "do "+tasks.Identity(t))
	return f.do(ctx, t)
}

func (f *fakeAPI) BoundSince(_ context.Context, t tasks.DeviceUnbind) (time.Time, Answer) {
	f.calls = append(f.calls, "list "+t.UserID)
	return f.bound(t)
}

// fakeQueue keeps what was moved, and fails when told to.
type fakeQueue struct {
	err         error
	errParkOnly bool
	parked      []Letter
	readmitted  []time.Duration
}

func (f *fakeQueue) Park(_ context.Context, l Letter) error {
	if f.err == nil {
		f.parked = append(f.parked, l)
	}
	return f.err
}

func (f *fakeQueue) Requeue(_ context.Context, _ Delivery, delay time.Duration) error {
	if f.err != nil && !f.errParkOnly {
		return f.err
	}
	f.readmitted = append(f.readmitted, delay)
	return nil
}

// fakeLedger keeps receipts, and fails when told to.
type fakeLedger struct {
	err      error
	receipts []tasks.Receipt
}

func (f *fakeLedger) Settle(ctx context.Context, r tasks.Receipt) error {
	if f.err == nil && ctx.Err() == nil {
		f.receipts = append(f.receipts, r)
	}
	return errors.Join(f.err, ctx.Err())
}

type bundle struct {
	*Pipeline
	api    *fakeAPI
	queue  *fakeQueue
	ledger *fakeLedger
	logs   *observer.ObservedLogs
	now    time.Time
}

func setup(t *testing.T, reason tasks.Reason) *bundle {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	b := &bundle{
		api: &fakeAPI{do: func(context.Context, tasks.Task) Answer {
			return Answer{Reason: reason, Message: "said so", Hint: "do this"}
		}},
		queue: &fakeQueue{}, ledger: &fakeLedger{}, logs: logs,
		now: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC),
	}
	p, err := New(Config{API: b.api, Queue: b.queue, Ledger: b.ledger, Logger: zap.New(core), Now: func() time.Time { return b.now }})
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

func TestSuccessIsFinished(t *testing.T) {
	t.Parallel()
	for reason, outcome := range map[tasks.Reason]tasks.Outcome{tasks.OK: tasks.Succeeded, tasks.Gone: tasks.AlreadyGone} {
		b := setup(t, reason)
		d := delivery(unbindPayload)
		v := b.Process(t.Context(), d)
		if v.Action != Complete || v.Outcome != outcome || v.Error != "" || ToAsynqError(d, v) != nil {
			t.Errorf("%s: %+v", reason, v)
		}
		if len(b.queue.parked) != 0 {
			t.Errorf("%s: parked", reason)
		}
	}
}

func TestDeadTasksAreParkedBeforeTheyGo(t *testing.T) {
	t.Parallel()
	b := setup(t, tasks.Forbidden)
	d := delivery(unbindPayload)
	v := b.Process(t.Context(), d)
	if err := ToAsynqError(d, v); err != nil {
		t.Fatalf("the original stays: %v", err)
	}
	d.Attempts = 1
	want := []Letter{{Delivery: d, Task: tasks.DeviceUnbind{UserID: "u", DeviceID: "d"}, Reason: tasks.Forbidden, Error: "forbidden: said so"}}
	if diff := cmp.Diff(want, b.queue.parked); diff != "" {
		t.Errorf("parked (-want +got):\n%s", diff)
	}
}

func TestWhatCannotBeParkedStaysUncharged(t *testing.T) {
	t.Parallel()
	b := setup(t, tasks.Forbidden)
	b.queue.err = errors.New("Redis is away")
	d := delivery(unbindPayload)
	v := b.Process(t.Context(), d)
	if v.Action != Retry || v.CountsAsAttempt || v.Delay <= 0 {
		t.Fatalf("%+v; want it put back uncharged", v)
	}
	err := ToAsynqError(d, v)
	if err == nil || IsFailure(err) {
		t.Errorf("settled as %v", err)
	}
}

func TestBytesThatAreNoTaskAreParkedWithTheirBytes(t *testing.T) {
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
		if v.Action != Park || v.Reason != tc.reason || len(b.api.calls) != 0 {
			t.Errorf("%q: %+v, calls %v", tc.payload, v, b.api.calls)
		}
		if len(b.queue.parked) != 1 || string(b.queue.parked[0].Payload) != tc.payload || b.queue.parked[0].Task != nil {
			t.Errorf("%q: parked %+v", tc.payload, b.queue.parked)
		}
	}
}

func TestUnchargedErrorsDoNotCount(t *testing.T) {
	t.Parallel()
	for _, reason := range []tasks.Reason{tasks.Throttled, tasks.Unauthorized, tasks.Misrouted} {
		b := setup(t, reason)
		d := delivery(unbindPayload)
		err := ToAsynqError(d, b.Process(t.Context(), d))
		if err == nil || IsFailure(err) || err.Error() != string(reason)+": said so" {
			t.Errorf("%s settles as %v", reason, err)
		}
	}
}

// A plain asynq client may allow fewer retries than we do. asynq archives such
// a task whatever the handler says, so it must leave before.
func TestTasksWithAForeignLimitNeverReachAsynqsArchive(t *testing.T) {
	t.Parallel()
	d := delivery(unbindPayload)
	d.Retries, d.Attempts, d.RetryLimit = 3, 3, 3

	b := setup(t, tasks.Upstream)
	if v := b.Process(t.Context(), d); ToAsynqError(d, v) != nil || len(b.queue.parked) != 1 {
		t.Errorf("its own failure: %+v, parked %d", v, len(b.queue.parked))
	}
	b = setup(t, tasks.Throttled)
	if v := b.Process(t.Context(), d); ToAsynqError(d, v) != nil || len(b.queue.readmitted) != 1 || len(b.queue.parked) != 0 {
		t.Errorf("not its fault: %+v, readmitted %v, parked %d", v, b.queue.readmitted, len(b.queue.parked))
	}
}

// The letter of a task that may not be retried cannot be stored just now.
func TestWhatCannotBeParkedIsReadmittedBeforeAsynqArchivesIt(t *testing.T) {
	t.Parallel()
	b := setup(t, tasks.Forbidden)
	b.queue.err, b.queue.errParkOnly = errors.New("a copy is being replayed"), true
	d := delivery(unbindPayload)
	d.RetryLimit = 0
	v := b.Process(t.Context(), d)
	if err := ToAsynqError(d, v); err != nil || len(b.queue.readmitted) != 1 {
		t.Errorf("settles as %v, readmitted %v: asynq would archive it", err, b.queue.readmitted)
	}
}

func TestAReplayThatFailsIsDeadInItsPlace(t *testing.T) {
	t.Parallel()
	d := delivery(unbindPayload)
	d.Queue, d.Replay, d.Retries, d.Attempts = tasks.QueueDeadLetter, true, 1, 12

	b := setup(t, tasks.Upstream)
	err := ToAsynqError(d, b.Process(t.Context(), d))
	if err == nil || len(b.queue.parked) != 0 || !IsFailure(err) || RetryDelay(0, err, nil) < Parked {
		t.Errorf("settles as %v, parked elsewhere %d", err, len(b.queue.parked))
	}
	b = setup(t, tasks.Throttled)
	err = ToAsynqError(d, b.Process(t.Context(), d))
	if err == nil || IsFailure(err) || RetryDelay(0, err, nil) > time.Minute {
		t.Errorf("throttled, it settles as %v; want it to stay a replay", err)
	}
	d.Retries = d.RetryLimit - 1
	b = setup(t, tasks.Upstream)
	if err := ToAsynqError(d, b.Process(t.Context(), d)); err == nil || IsFailure(err) {
		t.Errorf("one retry before asynq's limit it settles as %v, which counts", err)
	}
}

func TestAPanicIsAnAttempt(t *testing.T) {
	t.Parallel()
	b := setup(t, tasks.OK)
	b.api.do = func(context.Context, tasks.Task) Answer { panic("secret-in-a-panic") }
	d := delivery(unbindPayload)
	v := b.Process(t.Context(), d)
	if v.Action != Retry || !v.CountsAsAttempt || v.Reason != tasks.Panicked || strings.Contains(v.Error, "secret") {
		t.Errorf("%+v", v)
	}
	entries := b.logs.FilterMessageSnippet("panic").All()
	if len(entries) != 1 || !strings.Contains(fmt.Sprint(entries[0].ContextMap()["stack"]), "TestAPanicIsAnAttempt") {
		t.Errorf("the stack is not in the log: %v", entries)
	}
}

func TestTheGuard(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	old, young := start.Add(-time.Hour), start.Add(-time.Minute)
	for name, tc := range map[string]struct {
		intent  tasks.Intent
		bound   time.Time
		listing tasks.Reason
		outcome tasks.Outcome
		calls   int
	}{
		"young":                      {tasks.Intent{EnqueuedAt: young}, start, tasks.OK, tasks.Succeeded, 1},
		"of unknown age":             {tasks.Intent{}, start, tasks.OK, tasks.Succeeded, 1},
		"old, bound before":          {tasks.Intent{EnqueuedAt: old}, old.Add(-time.Second), tasks.OK, tasks.Succeeded, 2},
		"old, bound again":           {tasks.Intent{EnqueuedAt: old}, old.Add(time.Second), tasks.OK, tasks.Superseded, 1},
		"old, bound again, no guard": {tasks.Intent{EnqueuedAt: old, NoGuard: true}, old.Add(time.Second), tasks.OK, tasks.Succeeded, 1},
		"old, not bound":             {tasks.Intent{EnqueuedAt: old}, time.Time{}, tasks.OK, tasks.Succeeded, 2},
		"old, nothing listed":        {tasks.Intent{EnqueuedAt: old}, time.Time{}, tasks.Gone, tasks.Succeeded, 2},
		"old, listing fails":         {tasks.Intent{EnqueuedAt: old}, time.Time{}, tasks.Upstream, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, tasks.OK)
			b.api.bound = func(tasks.DeviceUnbind) (time.Time, Answer) { return tc.bound, Answer{Reason: tc.listing} }
			payload, err := tasks.Encode(tasks.DeviceUnbind{UserID: "u", DeviceID: "d"}, tc.intent)
			if err != nil {
				t.Fatal(err)
			}
			v := b.Process(t.Context(), delivery(string(payload)))
			if v.Outcome != tc.outcome || len(b.api.calls) != tc.calls {
				t.Errorf("%+v after %v; want %q after %d calls", v, b.api.calls, tc.outcome, tc.calls)
			}
		})
	}
}

func TestTooLateIsDeadWithoutACall(t *testing.T) {
	t.Parallel()
	b := setup(t, tasks.OK)
	v := b.Process(t.Context(), delivery(`{"v":1,"user_id":"u","device_id":"d","not_after":"2026-05-01T11:59:59Z"}`))
	if v.Action != Park || v.Reason != tasks.Expired || len(b.api.calls) != 0 || len(b.queue.parked) != 1 {
		t.Errorf("%+v, calls %v", v, b.api.calls)
	}
}

func TestACallThatIsCutShortCostsNothing(t *testing.T) {
	t.Parallel()
	b := setup(t, tasks.OK)
	ctx, cancel := context.WithCancel(t.Context())
	b.api.do = func(context.Context, tasks.Task) Answer {
		cancel()
		return Answer{Reason: tasks.TimedOut}
	}
	d := delivery(unbindPayload)
	d.Attempts = 11
	if v := b.Process(ctx, d); v.Action != Retry || v.CountsAsAttempt || len(b.queue.parked) != 0 {
		t.Errorf("%+v", v)
	}
}

func TestACallThatIsHeldBackCostsNothing(t *testing.T) {
	t.Parallel()
	b := setup(t, tasks.OK)
	b.api.do = func(context.Context, tasks.Task) Answer {
		return Answer{Reason: tasks.Upstream, Held: true, RetryAfter: 42 * time.Second}
	}
	d := delivery(unbindPayload)
	d.Attempts = 11
	if v := b.Process(t.Context(), d); v.Action != Retry || v.CountsAsAttempt || v.Delay != 42*time.Second || len(b.queue.parked) != 0 {
		t.Errorf("%+v", v)
	}
}

func TestTheCallEndsBeforeAsynqsDeadline(t *testing.T) {
	t.Parallel()
	b := setup(t, tasks.OK)
	b.now = time.Now()
	deadline := b.now.Add(time.Minute)
	ctx, cancel := context.WithDeadline(t.Context(), deadline)
	defer cancel()
	b.api.do = func(ctx context.Context, _ tasks.Task) Answer {
		if got, ok := ctx.Deadline(); !ok || !got.Before(deadline) {
			t.Errorf("the call's deadline is %s; want it before %s", got, deadline)
		}
		return Answer{Reason: tasks.OK}
	}
	b.Process(ctx, delivery(unbindPayload))
}

func TestAlarmsAreSpelledOutNowAndThen(t *testing.T) {
	t.Parallel()
	b := setup(t, tasks.Misrouted)
	for range 50 {
		b.Process(t.Context(), delivery(unbindPayload))
	}
	alarms := b.logs.FilterMessage(alarmMessages[tasks.Misrouted])
	if alarms.Len() != 1 || alarms.All()[0].ContextMap()["hint"] != "do this" || alarms.All()[0].ContextMap()["reason"] != "misrouted" {
		t.Fatalf("alarms: %v", alarms.All())
	}
	b.now = b.now.Add(alarmEvery)
	b.Process(t.Context(), delivery(unbindPayload))
	if again := b.logs.FilterMessage(alarmMessages[tasks.Misrouted]); again.Len() != 2 || again.All()[1].ContextMap()["since_last"] != int64(50) {
		t.Errorf("later: %v", again.All())
	}
}

func TestObserversSeeEveryAttempt(t *testing.T) {
	t.Parallel()
	var seen []Event
	api := &fakeAPI{do: func(context.Context, tasks.Task) Answer { return Answer{Reason: tasks.Gone} }}
	p, err := New(Config{API: api, Queue: &fakeQueue{}, Ledger: &fakeLedger{}, Observer: observe(func(e Event) { seen = append(seen, e) })})
	if err != nil {
		t.Fatal(err)
	}
	p.Process(t.Context(), delivery(unbindPayload))
	p.Process(t.Context(), delivery("{"))
	if len(seen) != 2 || seen[0].Decision.Outcome != tasks.AlreadyGone || seen[1].Decision.Outcome != tasks.Dead || seen[1].Task != nil {
		t.Errorf("seen: %+v", seen)
	}
}

type observe func(Event)

func (f observe) Observe(e Event) { f(e) }
