package fleet

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// CountWorkers returns how many workers have sent a heartbeat in the last few seconds. A
// worker that was killed counts for up to 5 s more.
func CountWorkers(ctx context.Context, rdb redis.UniversalClient) (int64, error) {
	n, err := rdb.ZCard(ctx, workersKey).Result()
	if err != nil {
		return 0, fmt.Errorf("count the workers: %w", err)
	}
	return n, nil
}
