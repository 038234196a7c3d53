package batch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// DrainCompleted calls notify for each of these batches that is complete and whose
// completion was not reported yet, and then takes the batch off the list of
// these. Without ids it looks at every open batch. It returns the batches that it
// has taken off. An error of notify does not stop it, nor does a batch that cannot
// be read: the next batch follows.
//
// If the process dies after notify, the completion is reported again. Two processes
// may also report it at the same time, but only one of them returns the batch.
func (s *Store) DrainCompleted(ctx context.Context, notify func(context.Context, tasks.BatchStats) error, ids ...string) (notified []tasks.BatchStats, err error) {
	if len(ids) == 0 {
		ids, err = s.rdb.SMembers(ctx, openKey).Result()
	} else {
		ids = slices.DeleteFunc(ids, func(id string) bool {
			open, openErr := s.rdb.SIsMember(ctx, openKey, id).Result()
			err = errors.Join(err, openErr)
			return !open
		})
	}
	if err != nil {
		return nil, fmt.Errorf("list the open batches: %w", err)
	}
	var failed error
	for page := range slices.Chunk(ids, listPage) {
		all, unreadable, err := s.showAll(ctx, page)
		if err != nil {
			return notified, errors.Join(failed, err)
		}
		failed = errors.Join(failed, unreadable)
		for _, stats := range all {
			if stats.CompletedAt.IsZero() {
				continue
			}
			removed, err := int64(0), notify(ctx, stats)
			if err == nil {
				removed, err = s.rdb.SRem(ctx, openKey, stats.ID).Result()
			}
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("report that batch %s is complete: %w", stats.ID, err))
			}
			if removed > 0 {
				notified = append(notified, stats)
			}
		}
	}
	return notified, failed
}

// DropIdle takes those open batches off their list whose input was not closed, and to
// which nothing has happened for so long: no new task and no outcome. Their producers
// have died, and nobody has resumed them. It returns them; the batches themselves
// stay. Opening such a batch again, and closing its input, puts it back on the list.
//
// It takes a batch off, and then looks whether its producer came back in between. If
// the process dies before that look, and the producer did come back and closed the
// input in just that moment, the completion is not reported.
func (s *Store) DropIdle(ctx context.Context, idle time.Duration) (dropped []tasks.BatchStats, err error) {
	now, err := s.rdb.Time(ctx).Result()
	if err != nil {
		return nil, fmt.Errorf("read Redis' clock: %w", err)
	}
	before := now.Add(-idle)
	ids, err := s.rdb.SMembers(ctx, openKey).Result()
	if err != nil {
		return nil, fmt.Errorf("list the open batches: %w", err)
	}
	for page := range slices.Chunk(ids, listPage) {
		idle, err := s.idleSince(ctx, page, before)
		if err != nil {
			return dropped, err
		}
		for _, id := range idle {
			removed, err := s.rdb.SRem(ctx, openKey, id).Result()
			if err != nil {
				return dropped, fmt.Errorf("take batch %s off the list of open ones: %w", id, err)
			}
			if removed == 0 {
				continue // another process was faster
			}
			still, err := s.idleSince(ctx, []string{id}, before)
			if err == nil && len(still) == 0 {
				err = s.listOpen(ctx, id)
			}
			if err != nil {
				return dropped, errors.Join(err, s.listOpen(ctx, id))
			}
			if len(still) == 0 {
				continue
			}
			stats, err := s.Show(ctx, id)
			if err != nil {
				return dropped, err
			}
			dropped = append(dropped, stats)
		}
	}
	return dropped, nil
}

// idleSince returns those of some batches whose input is not closed, and to which
// nothing has happened since before. A batch that was made by an older version, which
// did not record that, counts from when it was made.
func (s *Store) idleSince(ctx context.Context, ids []string, before time.Time) (idle []string, err error) {
	cmds := make([]*redis.SliceCmd, len(ids))
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, id := range ids {
			cmds[i] = p.HMGet(ctx, keysOf(id).meta, "sealed", "changed_at", "created_at")
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the open batches: %w", err)
	}
	for i, cmd := range cmds {
		closed, last := cmd.Val()[0] != nil, cmd.Val()[1]
		if last == nil {
			last = cmd.Val()[2]
		}
		text, exists := last.(string)
		if ms, err := strconv.ParseInt(text, 10, 64); exists && !closed && (err != nil || time.UnixMilli(ms).Before(before)) {
			idle = append(idle, ids[i])
		}
	}
	return idle, nil
}

// listOpen puts a batch on the list of open ones.
func (s *Store) listOpen(ctx context.Context, id string) error {
	if err := s.rdb.SAdd(ctx, openKey, id).Err(); err != nil {
		return fmt.Errorf("put batch %s on the list of open ones: %w", id, err)
	}
	return nil
}

// relistOpen puts a batch whose input is about to be closed back on the list of open
// ones: DropIdle may have taken it off, and its completion must be reported. One
// that is complete was reported, or is on the list.
func (s *Store) relistOpen(ctx context.Context, id string) error {
	m, err := s.rdb.HMGet(ctx, keysOf(id).meta, "created_at", "completed_at").Result()
	if err != nil {
		return fmt.Errorf("read batch %s: %w", id, err)
	}
	if m[0] == nil || m[1] != nil {
		return nil
	}
	return s.listOpen(ctx, id)
}

// ListPosition is where PruneList continues. The zero value is the beginning.
type ListPosition struct{ cursor uint64 }

// PruneList takes the batches of a page that have expired off the list of all batches,
// and moves the position to the next page. After the last page it begins again. It
// returns how many it has taken off.
func (s *Store) PruneList(ctx context.Context, at *ListPosition) (removed int64, err error) {
	pairs, next, err := s.rdb.ZScan(ctx, allKey, at.cursor, "", listPage).Result()
	if err != nil {
		return 0, fmt.Errorf("list the batches: %w", err)
	}
	exist := make([]*redis.IntCmd, len(pairs)/2) // a member is followed by its score
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range exist {
			exist[i] = p.Exists(ctx, keysOf(pairs[2*i]).meta)
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("list the batches: %w", err)
	}
	var expired []string
	for i, cmd := range exist {
		if cmd.Val() == 0 {
			expired = append(expired, pairs[2*i])
		}
	}
	if err := s.unlist(ctx, expired); err != nil {
		return 0, err
	}
	at.cursor = next
	return int64(len(expired)), nil
}
