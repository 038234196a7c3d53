package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// fakeUser is a user at KooDrive and in the ledger of locks, and the producer that
// remembers his rounds, in which locks are called "lock l".
type fakeUser struct {
	bound    []string
	held     []string
	heldErr  error        // of the ledger
	noLedger bool         // keeps none
	asked    []string     // what was listed, in turn
	answer   tasks.Reason // of the list
	err      error        // of the producer
	standing tasks.ChildStatus
	rounds   [][]string // what was enqueued in each
	forgot   bool
	lists    int
}

func (f *fakeUser) Bound(context.Context, string) ([]string, pipeline.Answer) {
	f.lists++
	f.asked = append(f.asked, "devices")
	return slices.Clone(f.bound), pipeline.Answer{Reason: f.answer}
}

func (f *fakeUser) Held(context.Context, string) ([]string, error) {
	f.asked = append(f.asked, "locks")
	return slices.Clone(f.held), f.heldErr
}

func (f *fakeUser) Standing(context.Context, tasks.Task, tasks.BatchRef) (tasks.ChildStatus, error) {
	return f.standing, f.err
}

func (f *fakeUser) NextRound(_ context.Context, _ tasks.Task, _ tasks.BatchRef, round int, children []tasks.Task) error {
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
				return fmt.Errorf("%+v is bound to an expiry", t)
			}
			ids = append(ids, "lock "+t.LockID)
		default:
			return fmt.Errorf("a child is a %T", t)
		}
	}
	f.rounds = append(f.rounds, ids)
	f.standing = tasks.ChildStatus{Round: round, Outstanding: len(children), Since: f.standing.Since}
	return nil
}

func (f *fakeUser) Forget(context.Context, tasks.Task, tasks.BatchRef) error {
	f.forgot = true
	return f.err
}

// settle ends a round: what is dead stays bound or held, and the rest is gone.
func (f *fakeUser) settle(dead ...string) {
	f.standing.Outstanding = 0
	f.bound, f.held = nil, nil
	for _, id := range dead {
		if lock, ok := strings.CutPrefix(id, "lock "); ok {
			f.held = append(f.held, lock)
			f.standing.Dead = append(f.standing.Dead, tasks.LockRelease{UserID: "u", LockID: lock})
			continue
		}
		f.bound = append(f.bound, id)
		f.standing.Dead = append(f.standing.Dead, tasks.DeviceUnbind{UserID: "u", DeviceID: id})
	}
}

func (f *fakeUser) off() *offboarder {
	o := &offboarder{lister: f, held: f, producer: f, now: func() time.Time { return time.Unix(1000, 0) }}
	if f.noLedger {
		o.held = nil
	}
	return o
}

func (f *fakeUser) do() pipeline.Answer {
	return f.off().do(context.Background(), tasks.UserOffboard{UserID: "u"}, tasks.BatchRef{})
}

func (f *fakeUser) want(t *testing.T, step string, reason tasks.Reason, rounds string) pipeline.Answer {
	t.Helper()
	answer := f.do()
	if answer.Reason != reason || fmt.Sprint(f.rounds) != rounds {
		t.Errorf("%s: %+v after rounds %v; want %s after %s", step, answer, f.rounds, reason, rounds)
	}
	if waits := reason == tasks.Waiting; answer.Held != waits || answer.Uncalled != waits || waits != (answer.RetryAfter > 0) {
		t.Errorf("%s: %+v; what waits is held back and comes again, and nothing else", step, answer)
	}
	return answer
}

func TestAnOffboardingGoesRoundUntilNothingIsBound(t *testing.T) {
	t.Parallel()
	f := &fakeUser{bound: []string{"a", "b"}, answer: tasks.OK}
	f.want(t, "first", tasks.Waiting, "[[a b]]")
	f.want(t, "under way", tasks.Waiting, "[[a b]]")
	if f.lists != 1 {
		t.Errorf("%d lists; want none while unbinds are under way", f.lists)
	}
	f.settle()
	f.bound = []string{"c"} // bound meanwhile
	f.want(t, "second", tasks.Waiting, "[[a b] [c]]")
	f.settle()
	f.want(t, "end", tasks.OK, "[[a b] [c]]")
	if !f.forgot {
		t.Error("the rounds are not forgotten")
	}
}

func TestAnOffboardingOfNothingIsDone(t *testing.T) {
	t.Parallel()
	for _, answer := range []tasks.Reason{tasks.OK, tasks.Gone} {
		f := &fakeUser{answer: answer}
		f.want(t, "at once", tasks.Gone, "[]")
	}
}

func TestAnOffboardingEndsAfterThreeRounds(t *testing.T) {
	t.Parallel()
	f := &fakeUser{answer: tasks.OK}
	for round := range 3 {
		f.bound = []string{fmt.Sprint("d", round)}
		f.want(t, fmt.Sprint("round ", round+1), tasks.Waiting, fmt.Sprint([]any{[]string{"d0"}, []string{"d1"}, []string{"d2"}}[:round+1]))
		f.settle()
	}
	f.bound = []string{"d3"}
	answer := f.want(t, "a fourth", tasks.StillBound, "[[d0] [d1] [d2]]")
	if !strings.Contains(answer.Message, "1 devices are bound and 0 known locks are held after 3 rounds") || answer.Hint == "" || !f.forgot {
		t.Errorf("%+v", answer)
	}
}

func TestAnOffboardingDoesNotRepeatWhatIsDead(t *testing.T) {
	t.Parallel()
	f := &fakeUser{bound: []string{"a", "b"}, answer: tasks.OK}
	f.want(t, "first", tasks.Waiting, "[[a b]]")
	f.settle("b")
	f.bound = append(f.bound, "c") // bound meanwhile
	f.want(t, "second", tasks.Waiting, "[[a b] [c]]")
	f.settle("b")
	answer := f.want(t, "only the dead one is left", tasks.StillBound, "[[a b] [c]]")
	if !strings.Contains(answer.Message, "1 of them with an unbind or a release that is dead") {
		t.Errorf("%+v", answer)
	}
}

func TestAnOffboardingPassesOnWhatTheListMet(t *testing.T) {
	t.Parallel()
	for _, reason := range []tasks.Reason{tasks.Upstream, tasks.Forbidden, tasks.Misrouted, tasks.Throttled, tasks.Protocol} {
		f := &fakeUser{bound: []string{"a"}, answer: reason}
		f.want(t, "list", reason, "[]")
	}
	f := &fakeUser{bound: []string{"a"}, answer: tasks.OK, err: errors.New("Redis is away")}
	f.want(t, "Redis", tasks.Waiting, "[]")
}

func TestAnOffboardingReleasesWhatTheLedgerKnows(t *testing.T) {
	t.Parallel()
	f := &fakeUser{bound: []string{"a"}, held: []string{"l@102", "m"}, answer: tasks.OK}
	f.want(t, "first", tasks.Waiting, "[[a lock l@102 lock m]]")
	f.want(t, "under way", tasks.Waiting, "[[a lock l@102 lock m]]")
	f.settle()
	f.held = []string{"n"} // tracked meanwhile
	f.want(t, "second, of locks only", tasks.Waiting, "[[a lock l@102 lock m] [lock n]]")
	f.settle()
	f.want(t, "end", tasks.OK, "[[a lock l@102 lock m] [lock n]]")
	if want := strings.Repeat("devices locks ", 3); strings.Join(f.asked, " ")+" " != want {
		t.Errorf("it has listed %q; want the locks after the devices, and neither while something is under way", f.asked)
	}
}

func TestAnOffboardingDoesNotRepeatAReleaseThatIsDead(t *testing.T) {
	t.Parallel()
	f := &fakeUser{bound: []string{"same"}, held: []string{"same", "m"}, answer: tasks.OK}
	f.want(t, "first", tasks.Waiting, "[[same lock same lock m]]")
	f.settle("lock same")
	f.bound = []string{"same"} // bound meanwhile: a device may have the id of a lock
	f.want(t, "the device again, not the lock", tasks.Waiting, "[[same lock same lock m] [same]]")
	f.settle("lock same")
	answer := f.want(t, "only the dead one is left", tasks.StillBound, "[[same lock same lock m] [same]]")
	if want := "0 devices are bound and 1 known locks are held after 2 rounds, 1 of them with"; !strings.Contains(answer.Message, want) || !strings.Contains(answer.Hint, "releases") || !f.forgot {
		t.Errorf("%+v; want %q", answer, want)
	}
}

// A holder that tracks its lock again and again is met three times.
func TestAnOffboardingEndsThoughALockIsTrackedAgain(t *testing.T) {
	t.Parallel()
	f := &fakeUser{held: []string{"l"}, answer: tasks.Gone}
	for range 3 {
		if answer := f.do(); answer.Reason != tasks.Waiting {
			t.Errorf("%+v; want it to wait", answer)
		}
		f.settle()
		f.held = []string{"l"}
	}
	f.want(t, "a fourth", tasks.StillBound, "[[lock l] [lock l] [lock l]]")
}

func TestAnOffboardingWithoutALedgerIsAboutDevices(t *testing.T) {
	t.Parallel()
	f := &fakeUser{bound: []string{"a"}, held: []string{"l"}, noLedger: true, answer: tasks.OK}
	f.want(t, "first", tasks.Waiting, "[[a]]")
	f.settle()
	f.held = []string{"l"}
	f.want(t, "end", tasks.OK, "[[a]]")
}

func TestAnOffboardingWaitsForTheLedger(t *testing.T) {
	t.Parallel()
	f := &fakeUser{bound: []string{"a"}, answer: tasks.OK, heldErr: errors.New("Redis is away")}
	answer := f.want(t, "Redis", tasks.Waiting, "[]")
	if answer.Message != "Redis is away" || f.forgot {
		t.Errorf("%+v; want it to say why, and to forget nothing", answer)
	}
	f.bound = nil
	f.want(t, "Redis, and no device", tasks.Waiting, "[]")
}

func TestAnOffboardingLooksLessOftenTheLongerItTakes(t *testing.T) {
	t.Parallel()
	for age, want := range map[time.Duration]time.Duration{0: time.Second, 20 * time.Second: 5 * time.Second, time.Hour: time.Minute} {
		f := &fakeUser{answer: tasks.OK, standing: tasks.ChildStatus{Round: 1, Outstanding: 1, Since: time.Unix(1000, 0).Add(-age)}}
		if answer := f.do(); answer.RetryAfter != want {
			t.Errorf("after %s it comes again in %s; want %s", age, answer.RetryAfter, want)
		}
	}
}
