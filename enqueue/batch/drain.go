package batch

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/kooworker/kooworker/tasks"
)

// DrainCompleted calls notify for each batch that is complete and whose
// completion was not reported yet, and then takes the batch off the list of
// these. It returns the batches that it has taken off. After an error of notify
// it goes on with the next batch.
//
// If the process dies after notify, the completion is reported again. Two
// processes may also report it at the same time, but only one of them returns the
// batch.
func (s *Store) DrainCompleted(ctx context.Context, notify func(context.Context, tasks.BatchStats) error) (notified []tasks.BatchStats, err error) {
	ids, err := s.rdb.SMembers(ctx, openKey).Result()
	if err != nil {
		return nil, fmt.Errorf("list the open batches: %w", err)
	}
	var failed error
	for page := range slices.Chunk(ids, listPage) {
		all, err := s.showAll(ctx, page)
		if err != nil {
			return notified, errors.Join(failed, err)
		}
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
