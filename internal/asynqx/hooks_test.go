package asynqx

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func TestSyncerHook_KeepsTheDeadlineAndNotTheCancellation(t *testing.T) {
	t.Parallel()
	for name, cancelled := range map[string]bool{"evalsha": false, "eval": false, "get": true} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cancel()
		want, _ := ctx.Deadline()
		err := SyncerHook().ProcessHook(func(ctx context.Context, _ redis.Cmder) error {
			if got, ok := ctx.Deadline(); !ok || !got.Equal(want) {
				t.Errorf("%s runs with the deadline %s; want %s", name, got, want)
			}
			return ctx.Err()
		})(ctx, redis.NewCmd(ctx, name))
		if (err != nil) != cancelled {
			t.Errorf("%s under a context that is cancelled: %v; want it cancelled: %v", name, err, cancelled)
		}
	}
}
