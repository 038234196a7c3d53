package jobs

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// fakeUser is a user at KooDrive and in the lock ledger. It is also the
// childEnqueuer, and records the rounds; there the lock l is "lock l".
type fakeUser struct {
	*bundle
	err    error // of the childEnqueuer
	status childStatus
	rounds [][]string // what was enqueued in each
	forgot bool
}

func newUser(t *testing.T, bound, held []string) *fakeUser {
	t.Helper()
	f := &fakeUser{bundle: setup(t, gate.Config{})}
	f.Jobs.children = f
	f.now = func() time.Time { return time.Unix(1000, 0) }
	f.bind(bound...)
	f.held = held
	return f
}

// bind makes these the user's devices.
func (f *fakeUser) bind(ids ...string) {
	f.devices = nil
	for _, id := range ids {
		f.devices = append(f.devices, tasks.Device{DeviceID: id})
	}
}

func (f *fakeUser) Status(context.Context, tasks.Task, tasks.BatchRef) (childStatus, error) {
	return f.status, f.err
}

func (f *fakeUser) Enqueue(_ context.Context, _ tasks.Task, _ tasks.BatchRef, round int, _ tasks.Lane, children []tasks.Task) error {
	if f.err != nil {
		return f.err
	}
	var ids []string
	for _, t := range children {
		switch t := t.(type) {
		case tasks.DeviceUnbind:
			ids = append(ids, t.DeviceID)
		case tasks.LockRelease:
			if t.Evidence != (tasks.SweepEvidence{}) {
				return fmt.Errorf("%+v carries evidence of a sweep", t)
			}
			ids = append(ids, "lock "+t.LockID)
		default:
			return fmt.Errorf("a child is a %T", t)
		}
	}
	f.rounds = append(f.rounds, ids)
	f.status = childStatus{Round: round, Outstanding: len(children), Since: f.status.Since}
	return nil
}

func (f *fakeUser) Forget(context.Context, tasks.Task, tasks.BatchRef) error {
	f.forgot = true
	return f.err
}

// endRound gives each child its outcome: the devices and locks in dead stay, and
// the others are gone.
func (f *fakeUser) endRound(dead ...string) {
	f.status.Outstanding = 0
	f.held = nil
	var bound []string
	for _, id := range dead {
		if lock, ok := strings.CutPrefix(id, "lock "); ok {
			f.held = append(f.held, lock)
			f.status.Dead = append(f.status.Dead, tasks.LockRelease{UserID: "u", LockID: lock})
			continue
		}
		bound = append(bound, id)
		f.status.Dead = append(f.status.Dead, tasks.DeviceUnbind{UserID: "u", DeviceID: id})
	}
	f.bind(bound...)
}

func (f *fakeUser) offboard() pipeline.Result { return f.do(tasks.UserOffboard{UserID: "u"}) }

// want runs the job once, and compares its reason and the rounds so far.
func (f *fakeUser) want(t *testing.T, step string, reason tasks.Reason, rounds string) pipeline.Result {
	t.Helper()
	r := f.offboard()
	if r.Reason != reason || fmt.Sprint(f.rounds) != rounds {
		t.Errorf("%s: %+v after rounds %v; want %s after %s", step, r, f.rounds, reason, rounds)
	}
	if waits := reason == tasks.Waiting; waits != (r.Kind == pipeline.IsSnooze) || waits && r.RetryAfter <= 0 {
		t.Errorf("%s: %+v; want a snooze with a delay if the reason is %s, else none", step, r, tasks.Waiting)
	}
	return r
}

func TestOffboard_RepeatsUntilNothingIsBound(t *testing.T) {
	t.Parallel()
	f := newUser(t, []string{"a", "b"}, nil)
	f.want(t, "first", tasks.Waiting, "[[a b]]")
	f.want(t, "under way", tasks.Waiting, "[[a b]]")
	if count(f.asked, "devices") != 1 {
		t.Errorf("%d lists; want none while unbinds are under way", count(f.asked, "devices"))
	}
	f.endRound()
	f.bind("c") // bound meanwhile
	f.want(t, "second", tasks.Waiting, "[[a b] [c]]")
	f.endRound()
	f.want(t, "end", tasks.OK, "[[a b] [c]]")
	if !f.forgot {
		t.Error("the rounds are kept; want them forgotten")
	}
}

func TestOffboard_NothingBoundIsAlreadyGone(t *testing.T) {
	t.Parallel()
	for _, answer := range []tasks.Reason{tasks.OK, tasks.Gone} {
		f := newUser(t, nil, nil)
		f.answer.Reason = answer
		f.want(t, "at once", tasks.Gone, "[]")
	}
}

func TestOffboard_EndsAfterThreeRounds(t *testing.T) {
	t.Parallel()
	f := newUser(t, nil, nil)
	for round := range 3 {
		f.bind(fmt.Sprint("d", round))
		f.want(t, fmt.Sprint("round ", round+1), tasks.Waiting, fmt.Sprint([]any{[]string{"d0"}, []string{"d1"}, []string{"d2"}}[:round+1]))
		f.endRound()
	}
	f.bind("d3")
	r := f.want(t, "a fourth", tasks.StillBound, "[[d0] [d1] [d2]]")
	if !strings.Contains(r.Detail, "1 devices are bound and 0 known locks are held after 3 rounds") || r.Hint == "" || !f.forgot {
		t.Errorf("%+v; want the numbers of devices and locks, a hint, and the rounds forgotten", r)
	}
}

func TestOffboard_DoesNotRepeatAnUnbindThatIsDead(t *testing.T) {
	t.Parallel()
	f := newUser(t, []string{"a", "b"}, nil)
	f.want(t, "first", tasks.Waiting, "[[a b]]")
	f.endRound("b")
	f.bind("b", "c") // c was bound meanwhile
	f.want(t, "second", tasks.Waiting, "[[a b] [c]]")
	f.endRound("b")
	r := f.want(t, "only the dead one is left", tasks.StillBound, "[[a b] [c]]")
	if !strings.Contains(r.Detail, "1 of them with an unbind or a release that is dead") {
		t.Errorf("%+v; want one that is dead", r)
	}
}

func TestOffboard_ReturnsTheFailureOfTheList(t *testing.T) {
	t.Parallel()
	for _, reason := range []tasks.Reason{tasks.Upstream, tasks.Forbidden, tasks.Misrouted, tasks.Throttled, tasks.Protocol} {
		f := newUser(t, []string{"a"}, nil)
		f.answer.Reason = reason
		f.want(t, "list", reason, "[]")
	}
	f := newUser(t, []string{"a"}, nil)
	f.err = errAway
	f.want(t, "Redis", tasks.Waiting, "[]")
}

func TestOffboard_ReleasesLocksOfTheLedger(t *testing.T) {
	t.Parallel()
	f := newUser(t, []string{"a"}, []string{"l@102", "m"})
	f.want(t, "first", tasks.Waiting, "[[a lock l@102 lock m]]")
	f.want(t, "under way", tasks.Waiting, "[[a lock l@102 lock m]]")
	f.endRound()
	f.held = []string{"n"} // tracked meanwhile
	f.want(t, "second, of locks only", tasks.Waiting, "[[a lock l@102 lock m] [lock n]]")
	f.endRound()
	f.want(t, "end", tasks.OK, "[[a lock l@102 lock m] [lock n]]")
	if want := strings.Repeat("devices locks ", 3); strings.Join(f.asked, " ")+" " != want {
		t.Errorf("calls %q; want the locks listed after the devices, and neither while children are outstanding", f.asked)
	}
}

func TestOffboard_DoesNotRepeatAReleaseThatIsDead(t *testing.T) {
	t.Parallel()
	f := newUser(t, []string{"same"}, []string{"same", "m"})
	f.want(t, "first", tasks.Waiting, "[[same lock same lock m]]")
	f.endRound("lock same")
	f.bind("same") // bound meanwhile: a device may have the id of a lock
	f.want(t, "the device again, not the lock", tasks.Waiting, "[[same lock same lock m] [same]]")
	f.endRound("lock same")
	r := f.want(t, "only the dead one is left", tasks.StillBound, "[[same lock same lock m] [same]]")
	if want := "0 devices are bound and 1 known locks are held after 2 rounds, 1 of them with"; !strings.Contains(r.Detail, want) || !strings.Contains(r.Hint, "releases") || !f.forgot {
		t.Errorf("%+v; want %q", r, want)
	}
}

// A lock that is tracked again after each round is released three times.
func TestOffboard_EndsThoughALockIsTrackedAgain(t *testing.T) {
	t.Parallel()
	f := newUser(t, nil, []string{"l"})
	f.answer.Reason = tasks.Gone
	for range 3 {
		if r := f.offboard(); r.Reason != tasks.Waiting {
			t.Errorf("%+v; want it to wait", r)
		}
		f.endRound()
		f.held = []string{"l"}
	}
	f.want(t, "a fourth", tasks.StillBound, "[[lock l] [lock l] [lock l]]")
}

func TestOffboard_WaitsForTheLockLedger(t *testing.T) {
	t.Parallel()
	f := newUser(t, []string{"a"}, nil)
	f.heldErr = errAway
	r := f.want(t, "Redis", tasks.Waiting, "[]")
	if r.Detail != errAway.Error() || f.forgot {
		t.Errorf("%+v; want the error as detail, and nothing forgotten", r)
	}
	f.bind()
	f.want(t, "Redis, and no device", tasks.Waiting, "[]")
}

func TestOffboard_PauseGrowsWithTheRound(t *testing.T) {
	t.Parallel()
	for age, want := range map[time.Duration]time.Duration{0: time.Second, 20 * time.Second: 5 * time.Second, time.Hour: time.Minute} {
		f := newUser(t, nil, nil)
		f.status = childStatus{Round: 1, Outstanding: 1, Since: time.Unix(1000, 0).Add(-age)}
		if r := f.offboard(); r.RetryAfter != want {
			t.Errorf("a round of %s: the pause is %s; want %s", age, r.RetryAfter, want)
		}
	}
}

func count(all []string, what string) (n int) {
	for _, each := range all {
		if each == what {
			n++
		}
	}
	return n
}

// What KooDrive lists is unbound as it is, if the wire can carry it at all. The
// rest is named when everything else is done.
func TestOffboard_IDsThatNoProducerMayGive(t *testing.T) {
	t.Parallel()
	f := newUser(t, []string{"good1", "AA:BB", "a/b c", "\x01", "é"}, nil)
	f.want(t, "first", tasks.Waiting, "[[good1 AA:BB a/b c]]")
	f.endRound()
	f.bind("\x01", "é")
	r := f.want(t, "what is left cannot be sent", tasks.StillBound, "[[good1 AA:BB a/b c]]")
	if !strings.Contains(r.Detail, `"\x01"`) || !strings.Contains(r.Detail, `"\u00e9"`) {
		t.Errorf("%+v; want the ids named that cannot be sent", r)
	}
}

// An error that comes again every time is not Redis' fault.
func TestOffboard_PermanentErrorIsDead(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"field": &tasks.FieldError{Field: "device_id", Problem: "is wrong"}, "batch": &batch.FullError{ID: "b"},
	} {
		f := newUser(t, []string{"a"}, nil)
		f.err = fmt.Errorf("enqueue: %w", err)
		if r := f.offboard(); r.Kind != pipeline.IsFailed || r.Reason != tasks.Invalid || !strings.Contains(r.Detail, err.Error()) {
			t.Errorf("%s: %+v; want it dead as invalid, with the error", name, r)
		}
	}
}
