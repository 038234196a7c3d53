package enqueue

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/cancelable"
	"github.com/kooworker/kooworker/internal/tracing"
	"github.com/kooworker/kooworker/tasks"
)

// chunkWriter is one of the goroutines that write chunks. It has scripts of its
// own, since they are not safe for concurrent use.
type chunkWriter struct {
	*bulk

	capture *asynqx.ScriptCapture
}

// writeChunk enqueues the entries of a chunk, marks them in the batch and reports
// them, in this order: a mark without its task would be a task that is lost. If the
// process dies before the marks, the next run of the bulk finds the tasks under
// their IDs. If Redis has lost tasks before the marks, the chunk is written again.
func (w *chunkWriter) writeChunk(ctx context.Context, part chunkPart) error {
	const tries = 3
	var err error
	for range tries {
		if err = w.tryChunk(ctx, part); !hasType[*batch.DataLossError](err) {
			break
		}
	}
	w.reportAll(part.entries)
	return err
}

func (w *chunkWriter) tryChunk(ctx context.Context, part chunkPart) error {
	var missing map[int64]bool
	if w.batched() && w.o.Restore {
		err := w.withRetry(ctx, func(ctx context.Context) (err error) {
			missing, err = cancelable.Call(ctx, func() (map[int64]bool, error) { return w.missing(ctx, part) })
			return err
		})
		if err != nil {
			return err
		}
	}
	var open []*entry // the entries to enqueue
	for i := range part.entries {
		e := &part.entries[i]
		switch {
		case e.Task == nil:
			e.Status = Rejected
		case e.state == batch.Absent, missing[e.index]:
			e.Status = ""
			open = append(open, e)
		default:
			e.Status = Skipped
		}
	}
	if !w.batched() {
		return w.enqueue(ctx, open, nil)
	}
	fence := batch.NewFence(w.result.Batch, part.chunk)
	err := w.enqueue(ctx, slices.Clone(open), fence)
	if err == nil {
		err = w.mark(ctx, part.entries, fence)
	}
	if err != nil {
		// Some of them may be stored. Whoever resumes finds those again.
		for _, e := range open {
			e.Status = ""
		}
	}
	return err
}

// missing returns the indexes of those entries that the batch counts as queued and whose
// tasks are not in their queue. An outcome is recorded before the task leaves its queue. So
// the states are read after the queue: what is still queued then was not done meanwhile.
func (w *chunkWriter) missing(ctx context.Context, part chunkPart) (map[int64]bool, error) {
	exist := make(map[int64]*redis.IntCmd) // by the index in part.entries
	_, err := w.client.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, e := range part.entries {
			if e.Task != nil && e.state == batch.Queued {
				queue := w.lane.Of(e.Task.Queue())
				exist[int64(i)] = p.Exists(ctx, asynqx.TaskKey(queue, tasks.BatchIdentity(w.result.Batch, e.Task)))
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	now, err := w.store.Reread(ctx, w.result.Batch, part.chunk)
	if err != nil {
		return nil, err
	}
	out := make(map[int64]bool)
	for i, cmd := range exist {
		e := part.entries[i]
		if cmd.Val() == 0 && now.State(int(e.index-now.Index(0))) == batch.Queued {
			out[e.index] = true
		}
	}
	return out, nil
}

// enqueue gives each entry its status. If it returns an error, entries without a
// status may be stored or not.
func (w *chunkWriter) enqueue(ctx context.Context, open []*entry, fence *batch.Fence) error {
	return w.withRetry(ctx, func(ctx context.Context) error {
		open = slices.DeleteFunc(open, func(e *entry) bool { return e.Status != "" })
		if len(open) == 0 {
			return nil
		}
		conflicts, err := w.sendChunk(ctx, open, fence)
		return errors.Join(err, w.resolveConflicts(ctx, conflicts))
	})
}

// sendChunk tries to store entries in one exchange. It returns those whose ID
// another task has. An error before the exchange is not about Redis, and permanent.
func (w *chunkWriter) sendChunk(ctx context.Context, open []*entry, fence *batch.Fence) (conflicts []*entry, err error) {
	now := w.client.now()
	o, err := w.client.buildOptions(ctx, w.o.Options)
	if asynqx.IsUnavailable(err) { // it asks for Redis' time
		return nil, err
	}
	if err != nil { // the deadline has passed meanwhile
		return nil, backoff.Permanent(err)
	}
	var scripts []asynqx.Script
	var queues []any
	for _, e := range open {
		queue := w.lane.Of(e.Task.Queue())
		intent := tasks.Intent{EnqueuedAt: now, NotAfter: o.deadline, NoGuard: o.noGuard}
		e.ID = tasks.Identity(e.Task)
		if w.batched() {
			intent.BatchRef = tasks.BatchRef{Batch: w.result.Batch, Index: e.index}
			e.ID = tasks.BatchIdentity(w.result.Batch, e.Task)
		}
		payload, err := tasks.Encode(e.Task, intent)
		if err != nil {
			return nil, err
		}
		var s asynqx.Script
		var isLater bool
		if e.RunAt, isLater, err = w.runAt(ctx, e.due, o); err != nil {
			return nil, err
		}
		headers := w.headers
		if isLater {
			headers = tracing.WithDue(headers, e.RunAt)
		}
		task, opts := asynq.NewTaskWithHeaders(string(e.Task.Kind()), payload, headers), asynqx.TaskOptions(queue, e.ID, time.Time{})
		if isLater {
			s, err = w.capture.CaptureDue(ctx, task, e.RunAt, opts...)
		} else {
			s, err = w.capture.Capture(ctx, task, opts...)
		}
		if err != nil {
			return nil, backoff.Permanent(err)
		}
		scripts = append(scripts, s)
		if !slices.Contains(queues, any(queue)) {
			queues = append(queues, queue)
		}
	}
	x, err := cancelable.Call(ctx, func() (exchange, error) { return w.send(ctx, scripts, queues, fence) })
	if err != nil {
		return nil, err
	}
	if fence != nil {
		fence.Add(x.token)
	} else {
		w.losses.add(x.bits)
	}
	unknownScript := false
	for _, bundle := range x.bundles {
		bundleErr := bundle.Each(func(i int, stored int64) {
			if stored == 1 {
				open[i].Status = Enqueued
			} else {
				conflicts = append(conflicts, open[i])
			}
		})
		switch {
		case asynqx.IsNoScript(bundleErr):
			unknownScript = true
		case bundleErr != nil:
			err = bundleErr // one of the errors is enough
		}
	}
	if unknownScript && err == nil {
		if err = w.capture.Load(ctx); err == nil {
			err = errTryAgain
		}
	}
	return conflicts, err
}

// runAt returns from when on an item with this time of its own may run, by Redis' clock, and
// whether that is later than now.
func (w *chunkWriter) runAt(ctx context.Context, due time.Time, o options) (at time.Time, isLater bool, err error) {
	if due.IsZero() {
		return o.runAt, o.delay > 0, nil
	}
	now, err := w.client.clock.now(ctx)
	if err != nil || !due.After(now) {
		return now, false, err
	}
	return asynqx.WholeSecond(due), true, nil
}

// exchange is what became of scripts that were run in one exchange.
type exchange struct {
	bundles []*asynqx.Bundle // a script returns 1 if the task was stored, 0 if another task has its ID
	token   string           // of the fence, if there is one
	bits    []sentBit        // of the lossCheck, if there is no fence
}

// send runs scripts in one exchange. After them it writes a token of the fence,
// if there is one: the token later shows whether Redis still has what was stored
// before it. It also registers the queues each time, in case Redis was emptied.
//
// An error leaves open which of the scripts have run. Without one, each of them
// may still have failed by itself.
func (w *chunkWriter) send(ctx context.Context, scripts []asynqx.Script, queues []any, fence *batch.Fence) (exchange, error) {
	x := exchange{bundles: w.capture.Bundle(scripts)}
	var written []redis.Cmder
	var wait *redis.Cmd
	cmds, err := w.client.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.SAdd(ctx, asynqx.AllQueuesKey, queues...)
		for _, bundle := range x.bundles {
			bundle.EvalSha(ctx, p)
		}
		if fence != nil {
			var set *redis.StatusCmd
			x.token, set = fence.Write(ctx, p)
			written = append(written, set)
		} else {
			x.bits, written = w.losses.write(ctx, p, queues)
		}
		if w.client.replicas != nil {
			wait = w.client.replicas.addWait(ctx, p)
		}
		return nil
	})
	asynqx.EachReply(cmds, err)
	for _, cmd := range written {
		if cmd.Err() != nil {
			return exchange{}, cmd.Err()
		}
	}
	if wait != nil && err == nil {
		got, _ := wait.Int() // WAIT has not failed
		return x, w.client.replicas.checkAcks(got)
	}
	return x, nil
}

// errTryAgain asks for another try: asynq's scripts are loaded now, or a
// conflicting task has just been finished.
var errTryAgain = errors.New("asynq's scripts were just loaded, or a task with the same ID was just finished")

// lookups is how many conflicting tasks are read at a time.
const lookups = 16

// resolveConflicts finds out what became of entries whose ID another task has.
func (w *chunkWriter) resolveConflicts(ctx context.Context, conflicts []*entry) error {
	var running sync.WaitGroup
	errs := make([]error, min(lookups, len(conflicts)))
	for n := range errs {
		running.Go(func() {
			for i := n; i < len(conflicts); i += lookups {
				if err := w.resolveConflict(ctx, conflicts[i]); err != nil {
					errs[n] = err
					return
				}
			}
		})
	}
	running.Wait()
	return errors.Join(errs...)
}

func (w *chunkWriter) resolveConflict(ctx context.Context, e *entry) error {
	if !w.batched() {
		task, opts := e.Task, append(slices.Clone(w.o.Options), inLane(w.lane))
		if !e.due.IsZero() {
			task = tasks.Timed{Task: task, RunAt: e.due}
		}
		res, err := w.client.enqueue(ctx, task, w.headers, opts)
		if err == nil {
			e.ID, e.Status, e.RunAt = res.ID, res.Status, res.RunAt
		}
		return err
	}
	other, err := w.client.outstanding(ctx, w.lane.Of(e.Task.Queue()), e.ID)
	if err != nil {
		return err
	}
	if other == nil {
		return errTryAgain
	}
	// If the task has the entry's index, it is the entry itself: an earlier run has
	// stored it and not marked it, or the reply got lost.
	e.RunAt = other.NextProcessAt
	_, in, err := tasks.Decode(tasks.Kind(other.Type), other.Payload)
	switch same := err == nil && in.BatchRef.Index == e.index; {
	case !same:
		e.Status = Duplicate
	case e.state == batch.Queued:
		e.Status, e.RunAt = Skipped, time.Time{} // there is nothing to restore
	default:
		e.Status = Enqueued
	}
	return nil
}

// markOf says how an item without a state is marked in the batch.
var markOf = map[Status]batch.State{Enqueued: batch.Queued, Duplicate: batch.Duplicate, Rejected: batch.Rejected}

// mark gives the entries their states in the batch.
func (w *chunkWriter) mark(ctx context.Context, entries []entry, fence *batch.Fence) error {
	marks := make([]batch.Mark, 0, len(entries))
	for _, e := range entries {
		if state, ok := markOf[e.Status]; ok && e.state == batch.Absent {
			marks = append(marks, batch.Mark{Index: e.index, State: state})
		}
	}
	return w.withRetry(ctx, func(ctx context.Context) error {
		_, err := cancelable.Call(ctx, func() (struct{}, error) { return struct{}{}, w.store.Mark(ctx, w.result.Batch, marks, fence) })
		return err
	})
}

// withRetry repeats f while Redis fails, until the timeout of the bulk is over.
func (b *bulk) withRetry(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, b.o.Timeout)
	defer cancel()
	pause := backoff.NewExponentialBackOff(backoff.WithInitialInterval(50*time.Millisecond), backoff.WithMaxInterval(time.Second), backoff.WithMaxElapsedTime(0))
	var last error
	err := backoff.Retry(func() error {
		err := f(ctx)
		switch {
		case err == nil:
			return nil
		case isPermanent(err):
			return backoff.Permanent(err)
		case ctx.Err() == nil || last == nil: // an error that the timeout itself causes says less
			last = err
		}
		return err
	}, backoff.WithContext(pause, ctx))
	if err != nil && last != nil && ctx.Err() != nil {
		return last
	}
	return err
}

// isPermanent reports whether another try would end with the same error.
func isPermanent(err error) bool {
	return hasType[*tasks.FieldError](err) || hasType[*batch.NotFoundError](err) || hasType[*batch.InputError](err) ||
		hasType[*batch.FullError](err) || hasType[*batch.DataLossError](err) || hasType[*batch.SpecError](err) ||
		hasType[*batch.NameReservedError](err) || hasType[*batch.CancelledError](err) || hasType[*NotReplicatedError](err)
}

func hasType[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}
