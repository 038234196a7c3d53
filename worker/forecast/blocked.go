package forecast

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/cancelable"
	"github.com/kooworker/kooworker/internal/pauses"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/overview"
)

// Blocked says why nothing of a batch runs now. Its text is empty if nothing is known.
func (f *Forecaster) Blocked(ctx context.Context, id string) (overview.Cause, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return cancelable.Call(ctx, func() (overview.Cause, error) {
		recent, err := batch.NewStore(f.rdb).Recent(ctx, id)
		if err != nil {
			recent = batch.Recent{}
		}
		return f.blockedOf(ctx, id, recent.Kinds)
	})
}

// blockedOf is Blocked, given the kinds of the latest tasks of the batch. If no task has
// ended, the kinds are not known: a queue counts if tasks wait in the lane of the batch there.
func (f *Forecaster) blockedOf(ctx context.Context, id string, kinds []tasks.Kind) (overview.Cause, error) {
	store := batch.NewStore(f.rdb)
	if stops, err := store.Stops(ctx, nil); err == nil {
		if h, ok := stops.HoldNow(id, time.Now()); ok {
			return overview.Cause{Text: "it is held " + HeldText(h), Hint: "kooworker batch release " + id}, nil
		}
	}
	lane, err := store.Lane(ctx, id)
	if err != nil {
		return overview.Cause{}, err
	}
	queues := queuesOf(kinds)
	if len(kinds) == 0 {
		if queues, err = f.notEmpty(ctx, queues, lane); err != nil {
			return overview.Cause{}, err
		}
	}
	paused, err := pauses.Read(ctx, f.rdb)
	if err != nil {
		return overview.Cause{}, err
	}
	var texts, hints []string
	var calls []gate.Kind
	for _, queue := range queues {
		if pause, isPaused := paused[lane.Of(queue)]; isPaused {
			texts = append(texts, pause.Of(queue)) // not of the lane: all tasks of the batch are in that one
			hints = append(hints, "kooworker queue resume "+queue)
		}
		calls = append(calls, overview.CallOf(kindOf[queue]))
	}
	if len(texts) > 0 {
		return overview.Cause{Text: strings.Join(texts, "; "), Hint: strings.Join(hints, "; ")}, nil
	}
	if cause, err := overview.Standstill(ctx, f.rdb, calls); err != nil || cause.Text != "" {
		return cause, err
	}
	return f.notDue(ctx, id, queues, lane)
}

// soon is how long nobody is told that tasks are not due: the wait for a second attempt is
// mostly shorter.
const soon = time.Minute

// notDue says so if all tasks that some queues have in the lane of a batch are for later: a
// run time was given, or they wait for another attempt.
func (f *Forecaster) notDue(ctx context.Context, id string, queues []string, lane tasks.Lane) (overview.Cause, error) {
	var ready []*redis.IntCmd
	var first []*redis.ZSliceCmd
	_, err := f.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, queue := range queues {
			name := lane.Of(queue)
			ready = append(ready, p.Exists(ctx, asynqx.PendingKey(name), asynqx.ActiveKey(name)))
			first = append(first, p.ZRangeWithScores(ctx, asynqx.ScheduledKey(name), 0, 0), p.ZRangeWithScores(ctx, asynqx.RetryKey(name), 0, 0))
		}
		return nil
	})
	if err != nil || slices.ContainsFunc(ready, func(n *redis.IntCmd) bool { return n.Val() > 0 }) {
		return overview.Cause{}, err
	}
	var due time.Time
	for _, task := range first {
		for _, z := range task.Val() {
			if at := time.Unix(int64(z.Score), 0).UTC(); due.IsZero() || at.Before(due) {
				due = at
			}
		}
	}
	if time.Until(due) < soon {
		return overview.Cause{}, nil
	}
	return overview.Cause{
		Text: "none of its tasks is due before " + due.Format(time.RFC3339),
		Hint: "there is nothing to mend; kooworker batch cancel " + id + " cancels it",
	}, nil
}

// kindOf is the kind of the tasks of a queue.
var kindOf = map[string]tasks.Kind{
	tasks.QueueRelease: tasks.KindLockRelease, tasks.QueueUnbind: tasks.KindDeviceUnbind, tasks.QueueOffboard: tasks.KindUserOffboard,
}

// queuesOf returns the queues of tasks of some kinds, in the order of tasks.Queues. No kinds:
// those of all tasks that a batch may have.
func queuesOf(kinds []tasks.Kind) (queues []string) {
	for _, queue := range tasks.Queues() {
		if kind, ok := kindOf[queue]; ok && (len(kinds) == 0 || slices.Contains(kinds, kind)) {
			queues = append(queues, queue)
		}
	}
	return queues
}

// notEmpty returns those of some queues in whose lane tasks wait or run.
func (f *Forecaster) notEmpty(ctx context.Context, queues []string, lane tasks.Lane) (out []string, err error) {
	answers := make(map[string]*redis.IntCmd)
	_, err = f.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, queue := range queues {
			name := lane.Of(queue)
			answers[queue] = p.Exists(ctx, asynqx.PendingKey(name), asynqx.ScheduledKey(name), asynqx.RetryKey(name), asynqx.ActiveKey(name))
		}
		return nil
	})
	for _, queue := range queues {
		if answers[queue].Val() > 0 {
			out = append(out, queue)
		}
	}
	return out, err
}
