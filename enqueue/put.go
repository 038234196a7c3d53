package enqueue

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

// put enqueues entries, marks them in the batch and reports them: in this order,
// since a mark without its task would be a task that is lost. A process that
// dies in between leaves tasks without a mark, which who resumes finds in their
// place.
func (b *bulk) put(ctx context.Context, d *dictation, entries []entry) error {
	var open []*entry
	for i := range entries {
		e := &entries[i]
		switch {
		case e.status == Rejected:
		case e.state == batch.Absent, e.state == batch.Queued && b.o.Restore:
			open = append(open, e)
		default:
			e.status = Skipped
		}
	}
	err := b.enqueue(ctx, d, open)
	if b.batched() {
		err = errors.Join(err, b.mark(ctx, entries))
	}
	b.report(slices.DeleteFunc(slices.Clone(entries), func(e entry) bool { return e.status == "" }))
	return err
}

// mark gives the entries their states in the batch.
func (b *bulk) mark(ctx context.Context, entries []entry) error {
	marks := make([]batch.Mark, 0, len(entries))
	for _, e := range entries {
		switch {
		case e.state != batch.Absent:
		case e.status == Enqueued:
			marks = append(marks, batch.Mark{Index: e.index, State: batch.Queued})
		case e.status == Duplicate:
			marks = append(marks, batch.Mark{Index: e.index, State: batch.Duplicate})
		case e.status == Rejected:
			marks = append(marks, batch.Mark{Index: e.index, State: batch.Rejected})
		}
	}
	return b.patiently(ctx, func(ctx context.Context) error {
		_, err := underContext(ctx, func() (struct{}, error) { return struct{}{}, b.store.Mark(ctx, b.result.Batch, marks) })
		return err
	})
}

// enqueue gives entries their status. Those that have none when it returns an
// error may be stored or not.
func (b *bulk) enqueue(ctx context.Context, d *dictation, open []*entry) error {
	return b.patiently(ctx, func(ctx context.Context) error {
		open = slices.DeleteFunc(open, func(e *entry) bool { return e.status != "" })
		if len(open) == 0 {
			return nil
		}
		taken, err := b.exchange(ctx, d, open)
		return errors.Join(err, b.settleTaken(ctx, taken))
	})
}

// exchange tries to store entries, in one exchange. It returns those whose place
// is taken.
func (b *bulk) exchange(ctx context.Context, d *dictation, open []*entry) (taken []*entry, err error) {
	now := b.client.now()
	o, err := compose(now, b.o.Options)
	if err != nil {
		return nil, err
	}
	var scripts []script
	var queues []any
	for _, e := range open {
		intent := tasks.Intent{EnqueuedAt: now, NotAfter: o.deadline, NoGuard: o.noGuard}
		e.id = tasks.Identity(e.task)
		if b.batched() {
			intent.Place = tasks.Place{Batch: b.result.Batch, Index: e.index}
			e.id = tasks.BatchIdentity(b.result.Batch, e.task)
		}
		payload, err := tasks.Encode(e.task, intent)
		if err != nil {
			return nil, err
		}
		s, err := d.write(ctx, e.task, e.id, payload, o.runAt)
		if err != nil {
			return nil, err
		}
		scripts = append(scripts, s)
		if q := any(e.task.Queue()); !slices.Contains(queues, q) {
			queues = append(queues, q)
		}
	}
	results, err := underContext(ctx, func() ([]sent, error) { return d.send(ctx, scripts, queues), nil })
	if err != nil {
		return nil, err
	}
	unknown := false
	for i, r := range results {
		switch {
		case isNoScript(r.err):
			unknown = true
		case r.err != nil:
			err = r.err // one is enough to know
		case r.stored:
			open[i].status = Enqueued
		default:
			taken = append(taken, open[i])
		}
	}
	if unknown && err == nil {
		if err = d.load(ctx); err == nil {
			err = errAgain
		}
	}
	return taken, err
}

// errAgain asks for another try at once.
var errAgain = errors.New("asynq's scripts were not loaded")

// looks is how many entries are looked up at a time.
const looks = 16

// settleTaken finds out about entries whose place is taken.
func (b *bulk) settleTaken(ctx context.Context, taken []*entry) error {
	var wg sync.WaitGroup
	errs := make([]error, min(looks, len(taken)))
	for w := range errs {
		wg.Go(func() {
			for i := w; i < len(taken); i += looks {
				if err := b.settleOne(ctx, taken[i]); err != nil {
					errs[w] = err
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (b *bulk) settleOne(ctx context.Context, e *entry) error {
	if !b.batched() {
		res, err := b.client.Enqueue(ctx, e.task, b.o.Options...)
		if err == nil {
			e.id, e.status = res.ID, res.Status
		}
		return err
	}
	other, err := b.client.inTheWay(ctx, e.task.Queue(), e.id)
	if err != nil {
		return err
	}
	if other == nil { // it has just gone; try again
		return errAgain
	}
	// Of one's own it is the entry itself, which a run before has stored and not
	// marked, or whose reply was lost.
	_, in, err := tasks.Decode(tasks.Kind(other.Type), other.Payload)
	switch mine := err == nil && in.Place.Index == e.index; {
	case !mine:
		e.status = Duplicate
	case e.state == batch.Queued:
		e.status = Skipped // nothing to restore
	default:
		e.status = Enqueued
	}
	return nil
}

// patiently repeats what Redis fails to do, until it has failed for the timeout.
func (b *bulk) patiently(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	pause := backoff.NewExponentialBackOff(backoff.WithInitialInterval(50*time.Millisecond), backoff.WithMaxInterval(time.Second), backoff.WithMaxElapsedTime(0))
	var last error
	err := backoff.Retry(func() error {
		err := f(ctx)
		switch {
		case err == nil:
			return nil
		case final(err):
			return backoff.Permanent(err)
		case ctx.Err() == nil || last == nil: // what the time-out itself causes says less
			last = err
		}
		return err
	}, backoff.WithContext(pause, ctx))
	if err != nil && last != nil && ctx.Err() != nil {
		return last
	}
	return err
}

// final reports whether an error would come again.
func final(err error) bool {
	var (
		field    *tasks.FieldError
		gone     *batch.NotFoundError
		input    *batch.InputError
		full     *batch.FullError
		replicas *NotReplicatedError
	)
	return errors.As(err, &field) || errors.As(err, &gone) || errors.As(err, &input) || errors.As(err, &full) || errors.As(err, &replicas)
}

func asLine(err error) (*LineError, bool) { return errors.AsType[*LineError](err) }
