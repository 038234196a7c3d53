package enqueue

import (
	"fmt"
	"time"
)

// Option changes how one task is enqueued.
type Option func(*options)

type options struct {
	runAt    time.Time
	deadline time.Time
	noGuard  bool
	delay    time.Duration
}

// In delays the task: it does not run before d has passed, and up to a second
// later, since asynq keeps whole seconds. Negative is refused.
func In(d time.Duration) Option { return func(o *options) { o.delay = d } }

// Deadline ends the task's time: after t it is not carried out any more, and is
// dead with the reason "expired". Without it a task stays wanted for ever.
func Deadline(t time.Time) Option { return func(o *options) { o.deadline = t } }

// NoGuard lets an unbind remove the device even if its user bound it again
// after this call. It is for account deletions, where every binding must go.
func NoGuard() Option { return func(o *options) { o.noGuard = true } }

func compose(now time.Time, opts []Option) (options, error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	if o.delay < 0 {
		return options{}, fmt.Errorf("enqueue: the delay is %s; want 0 or more", o.delay)
	}
	o.runAt = now.Add(o.delay)
	if full := o.runAt.Truncate(time.Second); o.delay > 0 && full.Before(o.runAt) {
		o.runAt = full.Add(time.Second) // asynq cuts to whole seconds, which would be early
	}
	if !o.deadline.IsZero() && !o.deadline.After(o.runAt) {
		return options{}, fmt.Errorf("enqueue: the deadline, %s, is not after the time from which it may run, %s",
			o.deadline.Format(time.RFC3339), o.runAt.Format(time.RFC3339))
	}
	return o, nil
}
