package enqueue

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
)

// put enqueues the entries of a job, marks them in the batch and reports them: in
// this order, since a mark without its task would be a task that is lost. A
// process that dies in between leaves tasks without a mark, which who resumes
// finds in their place. When Redis has lost them in between, it begins anew.
func (b *bulk) put(ctx context.Context, d *sender, j job) error {
	const tries = 3
	var err error
	for range tries {
		if err = b.once(ctx, d, j); !isLost(err) {
			break
		}
	}
	b.report(slices.DeleteFunc(slices.Clone(j.entries), func(e entry) bool { return e.status == "" }))
	return err
}

func isLost(err error) bool {
	_, lost := errors.AsType[*batch.DataLossError](err)
	return lost
}

func (b *bulk) once(ctx context.Context, d *sender, j job) error {
	var open []*entry
	for i := range j.entries {
		e := &j.entries[i]
		switch {
		case e.task == nil:
			e.status = Rejected
		case e.state == batch.Absent, e.state == batch.Queued && b.o.Restore:
			e.status = ""
			open = append(open, e)
		default:
			e.status = Skipped
		}
	}
	if !b.batched() {
		return b.enqueue(ctx, d, open, nil)
	}
	proof := batch.NewFence(b.result.Batch, j.chunk)
	err := b.enqueue(ctx, d, slices.Clone(open), proof)
	if err == nil {
		err = b.mark(ctx, j.entries, proof)
	}
	if err != nil {
		// What has been stored so far is found again by who resumes.
		for _, e := range open {
			e.status = ""
		}
	}
	return err
}

// mark gives the entries their states in the batch.
func (b *bulk) mark(ctx context.Context, entries []entry, proof *batch.Fence) error {
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
		_, err := underContext(ctx, func() (struct{}, error) { return struct{}{}, b.store.Mark(ctx, b.result.Batch, marks, proof) })
		return err
	})
}

// enqueue gives entries their status. Those that have none when it returns an
// error may be stored or not.
func (b *bulk) enqueue(ctx context.Context, d *sender, open []*entry, proof *batch.Fence) error {
	return b.patiently(ctx, func(ctx context.Context) error {
		open = slices.DeleteFunc(open, func(e *entry) bool { return e.status != "" })
		if len(open) == 0 {
			return nil
		}
		taken, err := b.exchange(ctx, d, open, proof)
		return errors.Join(err, b.settleTaken(ctx, taken))
	})
}

// exchange tries to store entries, in one exchange. It returns those whose place
// is taken.
func (b *bulk) exchange(ctx context.Context, d *sender, open []*entry, proof *batch.Fence) (taken []*entry, err error) {
	now := b.client.now()
	o, err := compose(now, b.o.Options)
	if err != nil {
		return nil, err
	}
	var scripts []asynqx.Script
	var queues []any
	for _, e := range open {
		intent := tasks.Intent{EnqueuedAt: now, NotAfter: o.deadline, NoGuard: o.noGuard}
		e.id = tasks.Identity(e.task)
		if b.batched() {
			intent.BatchRef = tasks.BatchRef{Batch: b.result.Batch, Index: e.index}
			e.id = tasks.BatchIdentity(b.result.Batch, e.task)
		}
		payload, err := tasks.Encode(e.task, intent)
		if err != nil {
			return nil, err
		}
		s, err := d.capture(ctx, e.task, e.id, payload, o.runAt)
		if err != nil {
			return nil, err
		}
		scripts = append(scripts, s)
		if q := any(e.task.Queue()); !slices.Contains(queues, q) {
			queues = append(queues, q)
		}
	}
	type answer struct {
		results []sent
		token   string
	}
	said, err := underContext(ctx, func() (a answer, err error) {
		a.results, a.token, err = d.send(ctx, scripts, queues, proof)
		return a, err
	})
	if err != nil {
		return nil, err
	}
	if proof != nil {
		proof.Add(said.token)
	}
	unknown := false
	for i, r := range said.results {
		switch {
		case asynqx.IsNoScript(r.err):
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

// errAgain asks for another try: asynq's scripts are loaded now, or what was in
// the way has just gone.
var errAgain = errors.New("asynq's scripts, or what was in the way, have just changed")

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
	switch mine := err == nil && in.BatchRef.Index == e.index; {
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
		lost     *batch.DataLossError
		spec     *batch.SpecError
		used     *batch.NameReservedError
		replicas *NotReplicatedError
	)
	return errors.As(err, &field) || errors.As(err, &gone) || errors.As(err, &input) || errors.As(err, &full) || errors.As(err, &lost) ||
		errors.As(err, &spec) || errors.As(err, &used) || errors.As(err, &replicas)
}
