package deadletter

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/hibiken/asynq"
	"golang.org/x/time/rate"

	"github.com/kooworker/kooworker/tasks"
)

// pageSize is how many letters one call to Redis reads.
const pageSize = 500

// List yields the letters that fit, latest death first, and ends with an error
// if Redis fails. Letters that arrive are included, letters that are being
// replayed are not.
func (s *Store) List(ctx context.Context, f Filter) iter.Seq2[Letter, error] {
	return func(yield func(Letter, error) bool) {
		n := 0
		for info, err := range s.infos(ctx) {
			if err != nil {
				yield(Letter{}, err)
				return
			}
			l := fromInfo(info)
			if !f.Match(l) {
				continue
			}
			if !yield(l, nil) {
				return
			}
			if n++; n == f.Limit {
				return
			}
		}
	}
}

// infos yields what is dead: first what arrives, then the parked letters.
//
// Pages are counted from the front of the set, which others change meanwhile.
// So they are read from the back: a letter that is taken out moves the unseen
// ones to pages that are still to come, and the seen ones, perhaps, into view
// again; those are passed over.
func (s *Store) infos(ctx context.Context) iter.Seq2[*asynq.TaskInfo, error] {
	return func(yield func(*asynq.TaskInfo, error) bool) {
		// asynq's error for a queue that never held a task cannot be told from
		// others, so ask for the names.
		queues, err := s.inspector.Queues()
		if err == nil && !slices.Contains(queues, tasks.QueueDeadLetter) {
			return
		}
		if err != nil {
			yield(nil, fmt.Errorf("look at the queues: %w", err))
			return
		}
		queue, err := s.inspector.GetQueueInfo(tasks.QueueDeadLetter)
		if err != nil {
			yield(nil, fmt.Errorf("look at the dead-letter queue: %w", err))
			return
		}
		seen := make(map[string]struct{}, queue.Retry)
		for _, part := range []struct {
			size int
			list func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error)
		}{
			{queue.Pending, s.inspector.ListPendingTasks},
			{queue.Active, s.inspector.ListActiveTasks},
			{queue.Retry, s.inspector.ListRetryTasks},
		} {
			for page := (part.size + pageSize - 1) / pageSize; page > 0; page-- {
				if err := ctx.Err(); err != nil {
					yield(nil, err)
					return
				}
				infos, err := part.list(tasks.QueueDeadLetter, asynq.Page(page), asynq.PageSize(pageSize))
				if err != nil {
					yield(nil, fmt.Errorf("list the dead letters: %w", err))
					return
				}
				for _, info := range slices.Backward(infos) {
					if _, again := seen[info.ID]; again || !(parked(info) || arriving(info)) {
						continue
					}
					seen[info.ID] = struct{}{}
					if !yield(info, nil) {
						return
					}
				}
			}
		}
	}
}

// arriving reports whether the letter is on its way to being parked.
func arriving(info *asynq.TaskInfo) bool { return info.Retried == 0 }

// Stats counts the dead letters.
type Stats struct {
	Total    int                  `json:"total"`
	ByReason map[tasks.Reason]int `json:"by_reason"`
	ByKind   map[tasks.Kind]int   `json:"by_kind"`
}

// Stats counts the letters that fit.
func (s *Store) Stats(ctx context.Context, f Filter) (Stats, error) {
	stats := Stats{ByReason: map[tasks.Reason]int{}, ByKind: map[tasks.Kind]int{}}
	for l, err := range s.List(ctx, f) {
		if err != nil {
			return Stats{}, err
		}
		stats.Total++
		stats.ByReason[l.Reason]++
		stats.ByKind[l.Kind]++
	}
	return stats, nil
}

// Result is what a bulk verb did.
type Result struct {
	Matched int `json:"matched"` // letters that fitted when it began
	Done    int `json:"done"`    // replayed or discarded
	Skipped int `json:"skipped"` // arriving, or taken by somebody else meanwhile
}

// Options of a bulk verb.
type Options struct {
	// DryRun counts and changes nothing.
	DryRun bool
	// Rate is the greatest number of letters a second; 0 is no limit.
	Rate float64
}

// Replay lets the letters that fit be carried out once more, in their place.
// It returns when they are on their way, not when they are done. The choice is
// made before the first one is touched: a letter that dies again is not
// replayed again.
func (s *Store) Replay(ctx context.Context, f Filter, o Options) (Result, error) {
	return s.each(ctx, f, o, s.inspector.RunTask)
}

// Discard deletes the letters that fit, for good.
func (s *Store) Discard(ctx context.Context, f Filter, o Options) (Result, error) {
	return s.each(ctx, f, o, s.inspector.DeleteTask)
}

func (s *Store) each(ctx context.Context, f Filter, o Options, do func(queue, id string) error) (Result, error) {
	var ids []string
	for l, err := range s.List(ctx, f) {
		if err != nil {
			return Result{}, err
		}
		ids = append(ids, l.ID)
	}
	res := Result{Matched: len(ids)}
	if o.DryRun {
		return res, nil
	}
	limit := rate.Inf
	if o.Rate > 0 {
		limit = rate.Limit(o.Rate)
	}
	pace := rate.NewLimiter(limit, 1)
	for _, id := range ids {
		if err := pace.Wait(ctx); err != nil {
			return res, err
		}
		switch took, err := s.one(id, do); {
		case err != nil:
			return res, err
		case took:
			res.Done++
		default:
			res.Skipped++
		}
	}
	return res, nil
}

// one does it to a letter, provided that it is parked. Whether it was taken by
// somebody else between the look and the deed, or Redis failed, asynq's error
// does not say; another look does.
func (s *Store) one(id string, do func(queue, id string) error) (took bool, err error) {
	ready, err := s.isParked(id)
	if err != nil || !ready {
		return false, err
	}
	failure := do(tasks.QueueDeadLetter, id)
	if failure == nil {
		return true, nil
	}
	if still, err := s.isParked(id); err == nil && !still {
		return false, nil
	}
	return false, fmt.Errorf("dead letter %s: %w", id, failure)
}

func (s *Store) isParked(id string) (bool, error) {
	info, err := s.inspector.GetTaskInfo(tasks.QueueDeadLetter, id)
	if errors.Is(err, asynq.ErrTaskNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at dead letter %s: %w", id, err)
	}
	return parked(info), nil
}
