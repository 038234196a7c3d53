package batch

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/kooworker/kooworker/tasks"
)

// DrainCompleted calls tell for each batch that is complete and has not been told of,
// and then takes it off the list of those. It goes on after an error of tell. A
// crash after tell lets it be told again, and so may two processes at the same
// time; but only one of them gets the batch among those that it has told of.
func (s *Store) DrainCompleted(ctx context.Context, tell func(context.Context, tasks.BatchStats) error) (told []tasks.BatchStats, err error) {
	ids, err := s.rdb.SMembers(ctx, openKey).Result()
	if err != nil {
		return nil, fmt.Errorf("announce batches: %w", err)
	}
	var failed error
	for len(ids) > 0 {
		page := ids[:min(listPage, len(ids))]
		ids = ids[len(page):]
		complete, err := s.completed(ctx, page)
		if err != nil {
			return told, errors.Join(failed, err)
		}
		for _, b := range complete {
			removed, err := int64(0), tell(ctx, b)
			if err == nil {
				removed, err = s.rdb.SRem(ctx, openKey, b.ID).Result()
			}
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("announce batch %s: %w", b.ID, err))
			}
			if removed > 0 {
				told = append(told, b)
			}
		}
	}
	return told, failed
}

// completed returns those of the batches that are complete. Those that have
// expired are taken off the list.
func (s *Store) completed(ctx context.Context, ids []string) ([]tasks.BatchStats, error) {
	all, err := s.showAll(ctx, ids)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(b tasks.BatchStats) bool { return b.CompletedAt.IsZero() }), nil
}
