package enqueue

import (
	"fmt"
	"math"
	"time"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
)

// Option changes how one task is enqueued.
type Option func(*options)

type options struct {
	runAt    time.Time
	deadline time.Time
	noGuard  bool
	delay    time.Duration
	at       time.Time
	anyID    bool
	lane     tasks.Lane
}

// In delays the task. It does not run before d has passed, and may run up to a
// second later, since asynq keeps whole seconds. The delay goes by Redis' clock, which
// is asked once a minute at most. A negative delay is refused.
func In(d time.Duration) Option { return func(o *options) { o.delay = d } }

// At lets the task run no earlier than t by Redis' clock, and up to a second later. If t has
// passed, the task runs at once, so that a bulk can be resumed after it. The zero time is no
// time. A time of more than 290 years ahead, and one beside In, are refused.
func At(t time.Time) Option { return func(o *options) { o.at = t } }

// Deadline sets the time after which the task is not carried out any more. It is
// then dead with the reason "expired". Without it a task never expires.
func Deadline(t time.Time) Option { return func(o *options) { o.deadline = t } }

// NoGuard lets an unbind remove the device even if its user binds it again after
// this call. It is for account deletions, where every binding must go.
func NoGuard() Option { return func(o *options) { o.noGuard = true } }

// AllowAnyID accepts ids that look like a number which a spreadsheet or a program has
// rounded (1.50508E+18), or like no value (NULL, None, -). Without it they are refused
// with a *tasks.FieldError; see tasks.CheckPlausible. It is for who really has such ids.
func AllowAnyID() Option { return func(o *options) { o.anyID = true } }

// Urgent lets the task go first: it waits only for other urgent ones. A batch has all of its
// tasks in the lane that it was made with; Urgent makes no difference when it is resumed.
func Urgent() Option { return inLane(tasks.LaneUrgent) }

// inLane puts the task into a lane of its queue.
func inLane(l tasks.Lane) Option { return func(o *options) { o.lane = l } }

// OptionError says what is wrong with the options of a task.
type OptionError struct{ Problem string }

// Error implements error.
func (e *OptionError) Error() string { return "enqueue: " + e.Problem }

func optionErrorf(format string, args ...any) error {
	return &OptionError{fmt.Sprintf(format, args...)}
}

func buildOptions(now time.Time, opts []Option) (options, error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	if o.delay < 0 {
		return options{}, optionErrorf("the delay is %s; want 0 or more", o.delay)
	}
	if !o.at.IsZero() {
		if o.delay > 0 {
			return options{}, optionErrorf("both a delay, %s, and a time, %s; want one of them", o.delay, o.at.Format(time.RFC3339))
		}
		if o.delay = max(o.at.Sub(now), 0); o.delay == math.MaxInt64 {
			return options{}, optionErrorf("the time is %s; want one in less than 290 years", o.at.Format(time.RFC3339))
		}
	}
	if o.runAt = now.Add(o.delay); o.delay > 0 {
		o.runAt = asynqx.WholeSecond(o.runAt)
	}
	if !o.deadline.IsZero() && !o.deadline.After(o.runAt) {
		return options{}, optionErrorf("the deadline is %s; want a time after %s, before which the task cannot run",
			o.deadline.Format(time.RFC3339), o.runAt.Format(time.RFC3339))
	}
	return o, nil
}
