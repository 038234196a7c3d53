package batch

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// Announce calls tell for each batch that is complete and has not been told of,
// and then takes it off the list of those. It goes on after an error of tell,
// and returns what has failed. A crash after tell lets it be told again.
func (s *Store) Announce(ctx context.Context, tell func(context.Context, tasks.Balance) error) error {
	ids, err := s.rdb.SMembers(ctx, openKey).Result()
	if err != nil {
		return fmt.Errorf("announce batches: %w", err)
	}
	var failed error
	for len(ids) > 0 {
		page := ids[:min(listPage, len(ids))]
		ids = ids[len(page):]
		complete, err := s.completed(ctx, page)
		if err != nil {
			return err
		}
		for _, b := range complete {
			err := tell(ctx, b)
			if err == nil {
				err = s.rdb.SRem(ctx, openKey, b.ID).Err()
			}
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("announce batch %s: %w", b.ID, err))
			}
		}
	}
	return failed
}

// completed returns those of the batches that are complete.
func (s *Store) completed(ctx context.Context, ids []string) ([]tasks.Balance, error) {
	cmds := make([]*redis.BoolCmd, len(ids))
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, id := range ids {
			cmds[i] = p.HExists(ctx, keysOf(id).meta, "completed_at")
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("announce batches: %w", err)
	}
	var balances []tasks.Balance
	for i, id := range ids {
		if !cmds[i].Val() {
			continue
		}
		b, err := s.showAll(ctx, []string{id})
		if err != nil {
			return nil, err
		}
		balances = append(balances, b...)
	}
	return balances, nil
}
