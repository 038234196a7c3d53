package deadletter

import (
	"context"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
)

// Counts are numbers of dead letters.
type Counts struct {
	Total    int64                  `json:"total"`
	ByReason map[tasks.Reason]int64 `json:"by_reason"`
}

// Counts counts the dead letters without reading them: in a millisecond, however many there
// are. Total is exact. The others are the lengths of the index. So a letter that somebody has
// deleted in asynqmon counts under its reason until PruneIndex finds that out, and one that
// is being replayed counts there, too. Letters of reasons that this version does not know
// are in Total only. Stats reads all letters, and is exact.
func (s *Store) Counts(ctx context.Context) (Counts, error) {
	var total *redis.IntCmd
	lengths := make(map[tasks.Reason]*redis.IntCmd)
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		total = p.ZCount(ctx, asynqx.RetryKey(tasks.QueueDeadLetter), strconv.FormatInt(minParkedScore(), 10), "+inf")
		for _, reason := range tasks.Reasons() {
			lengths[reason] = p.ZCard(ctx, indexKey(reason))
		}
		return nil
	})
	if err != nil {
		return Counts{}, fmt.Errorf("count the dead letters: %w", err)
	}
	counts := Counts{Total: total.Val(), ByReason: make(map[tasks.Reason]int64)}
	for reason, length := range lengths {
		if n := min(length.Val(), counts.Total); n > 0 {
			counts.ByReason[reason] = n
		}
	}
	return counts, nil
}
