package batch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/cancelable"
	"github.com/kooworker/kooworker/tasks"
)

// metaFields are the fields of meta that readMeta reads. All of them are numbers.
var metaFields = slices.Concat(stateNames[Queued:], []string{
	"created_at", "sealed", "total", "completed_at", "with_receipts", "abandoned", "children", "revisions", "forgotten", "due_by",
})

// Show returns the counts of a batch.
func (s *Store) Show(ctx context.Context, id string) (tasks.BatchStats, error) {
	if tasks.ValidateBatchID(id) != nil {
		return tasks.BatchStats{}, &NotFoundError{ID: id}
	}
	values, err := s.rdb.HMGet(ctx, keysOf(id).meta, metaFields...).Result()
	if err != nil {
		return tasks.BatchStats{}, fmt.Errorf("read batch %s: %w", id, err)
	}
	stats, _, err := readMeta(id, values)
	return stats, err
}

// readMeta reads the values of metaFields. It also returns those that exist by
// their names.
func readMeta(id string, values []any) (tasks.BatchStats, map[string]int64, error) {
	n := make(map[string]int64)
	for i, v := range values {
		if text, ok := v.(string); ok {
			var err error
			if n[metaFields[i]], err = strconv.ParseInt(text, 10, 64); err != nil {
				return tasks.BatchStats{}, nil, fmt.Errorf("read batch %s: %s: %w", id, metaFields[i], err)
			}
		}
	}
	if _, exists := n["created_at"]; !exists {
		return tasks.BatchStats{}, nil, &NotFoundError{ID: id}
	}
	stats := tasks.BatchStats{
		ID: id, CreatedAt: time.UnixMilli(n["created_at"]).UTC(), Total: n["total"], Queued: n["queued"],
		Succeeded: n["succeeded"], AlreadyGone: n["already_gone"], Superseded: n["superseded"], Cancelled: n["cancelled"], Dead: n["dead"],
		Discarded: n["discarded"], Duplicate: n["duplicate"], Rejected: n["rejected"],
	}
	_, closed := n["sealed"]
	stats.Done = closed && stats.Queued == 0
	if at := n["completed_at"]; at != 0 {
		stats.CompletedAt = time.UnixMilli(at).UTC()
	}
	if at := n["due_by"]; at != 0 {
		stats.DueBy = time.UnixMilli(at).UTC()
	}
	return stats, n, nil
}

// listPage is how many batches are read in one exchange.
const listPage = 100

// List yields the counts of all batches, the latest batch first. It ends after an
// error. A batch that cannot be read is an error after all the others.
func (s *Store) List(ctx context.Context) iter.Seq2[tasks.BatchStats, error] {
	return func(yield func(tasks.BatchStats, error) bool) {
		// All IDs are read at once: a batch that expires meanwhile would shift pages.
		ids, err := s.rdb.ZRevRange(ctx, allKey, 0, -1).Result()
		if err != nil {
			yield(tasks.BatchStats{}, fmt.Errorf("list the batches: %w", err))
			return
		}
		var failed error
		for page := range slices.Chunk(ids, listPage) {
			all, unreadable, err := s.showAll(ctx, page)
			if err != nil {
				yield(tasks.BatchStats{}, err)
				return
			}
			for _, stats := range all {
				if !yield(stats, nil) {
					return
				}
			}
			failed = errors.Join(failed, unreadable)
		}
		if failed != nil {
			yield(tasks.BatchStats{}, failed)
		}
	}
}

// showAll reads some batches in one exchange, and takes those that have expired
// off the list. A batch is made before it is listed, so a listed batch that does
// not exist has expired. A batch that cannot be read does not stop it: unreadable
// says what is wrong.
func (s *Store) showAll(ctx context.Context, ids []string) (all []tasks.BatchStats, unreadable, err error) {
	cmds := make([]*redis.SliceCmd, len(ids))
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, id := range ids {
			cmds[i] = p.HMGet(ctx, keysOf(id).meta, metaFields...)
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list the batches: %w", err)
	}
	var expired []string
	for i, id := range ids {
		stats, _, err := readMeta(id, cmds[i].Val())
		if _, missing := errors.AsType[*NotFoundError](err); missing {
			expired = append(expired, id)
			continue
		}
		if err != nil {
			unreadable = errors.Join(unreadable, err)
			continue
		}
		all = append(all, stats)
	}
	if err := s.unlist(ctx, expired); err != nil {
		return nil, nil, err
	}
	return all, unreadable, nil
}

// unlist takes batches that have expired off the lists. A version that knows nothing of
// the index of users may have completed the batch, and did not let the index expire.
func (s *Store) unlist(ctx context.Context, expired []string) error {
	if len(expired) == 0 {
		return nil
	}
	members := make([]any, len(expired))
	for i, id := range expired {
		members[i] = id
	}
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.ZRem(ctx, allKey, members...)
		p.SRem(ctx, openKey, members...)
		for _, id := range expired {
			p.Unlink(ctx, keysOf(id).users)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("take expired batches off the list: %w", err)
	}
	return nil
}

const (
	waitInterval = 200 * time.Millisecond // between two reads of Wait
	maxOutage    = time.Minute            // for which Redis may fail while Wait waits
	readTimeout  = 2 * time.Second        // of one such read after the first
)

// Observer is told how a wait gets on. Each field may be nil.
type Observer struct {
	// Counts gets each reading of the counts.
	Counts func(tasks.BatchStats)
	// Away gets why Redis did not answer a reading, and when it answered last. It is called
	// for each reading that fails, every few seconds at most. The next call of Counts says that
	// Redis is back.
	Away func(why error, since time.Time)
}

// Wait waits until the batch is done or ctx ends. It calls observe, unless that is
// nil, with each reading of the counts. Once it has read the counts it keeps
// trying while Redis fails, for up to maxOutage.
func (s *Store) Wait(ctx context.Context, id string, observe func(tasks.BatchStats)) (tasks.BatchStats, error) {
	return s.WaitObserved(ctx, id, Observer{Counts: observe})
}

// WaitObserved is Wait, and also tells of a Redis that fails.
func (s *Store) WaitObserved(ctx context.Context, id string, o Observer) (tasks.BatchStats, error) {
	tick := time.NewTicker(waitInterval)
	defer tick.Stop()
	var last tasks.BatchStats
	readAt := time.Now()
	for {
		stats, why := s.read(ctx, id, last.ID != "")
		_, missing := errors.AsType[*NotFoundError](why)
		switch {
		case why == nil:
			last, readAt = stats, time.Now()
			if o.Counts != nil {
				o.Counts(last)
			}
			if last.Done {
				return last, nil
			}
		case ctx.Err() != nil:
			return last, ctx.Err()
		case missing || last.ID == "" || time.Since(readAt) > maxOutage:
			return last, why
		case o.Away != nil:
			o.Away(cmp.Or(errors.Unwrap(why), why), readAt)
		}
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-tick.C:
		}
	}
}

// read reads the counts for Wait. It is bounded in time, so that a Redis that hangs is known as
// such soon: go-redis would try several times. The first reading may have to connect first.
func (s *Store) read(ctx context.Context, id string, isBounded bool) (tasks.BatchStats, error) {
	if !isBounded {
		return cancelable.Call(ctx, func() (tasks.BatchStats, error) { return s.Show(ctx, id) })
	}
	ctx, cancel := context.WithTimeoutCause(ctx, readTimeout, errors.New("no answer within "+readTimeout.String()))
	defer cancel()
	stats, err := cancelable.Call(ctx, func() (tasks.BatchStats, error) { return s.Show(ctx, id) })
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("read batch %s: %w", id, context.Cause(ctx))
	}
	return stats, err
}
