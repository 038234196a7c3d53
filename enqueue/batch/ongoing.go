package batch

import (
	"context"
	"fmt"
	"slices"

	"github.com/kooworker/kooworker/tasks"
)

// Ongoing returns the counts of the batches that are not complete, the oldest first. One
// whose producer has died is not among them any more after a week; see DropIdle.
// A batch that cannot be read is left out, and named by the error; the others are returned
// nevertheless.
func (s *Store) Ongoing(ctx context.Context) (ongoing []tasks.BatchStats, err error) {
	ids, err := s.rdb.SMembers(ctx, openKey).Result()
	if err != nil {
		return nil, fmt.Errorf("list the open batches: %w", err)
	}
	for page := range slices.Chunk(ids, listPage) {
		all, unreadable, failed := s.showAll(ctx, page)
		if failed != nil {
			return ongoing, failed
		}
		if err == nil {
			err = unreadable
		}
		for _, b := range all {
			if b.CompletedAt.IsZero() {
				ongoing = append(ongoing, b)
			}
		}
	}
	slices.SortFunc(ongoing, func(a, b tasks.BatchStats) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return ongoing, err
}
