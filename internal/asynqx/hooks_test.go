package asynqx

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
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

func TestErrorBackoffHook_WaitsAfterAServersError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		urgent, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		stopped, stop := context.WithCancel(t.Context())
		stop()
		for _, tc := range []struct {
			name string
			ctx  context.Context
			err  error
			want time.Duration
		}{
			{"no error", t.Context(), nil, 0},
			{"no task", t.Context(), redis.Nil, 0},
			{"connection refused", t.Context(), errors.New("dial tcp: connection refused"), 0},
			{"memory is full", t.Context(), errors.New("OOM command not allowed when used memory > 'maxmemory'"), errorBackoff},
			{"a replica, in a script", t.Context(), errors.New("ERR user_script:1: -READONLY You can't write against a read only replica"), errorBackoff},
			{"with a deadline", urgent, errors.New("LOADING Redis is loading the dataset in memory"), 0},
			{"when asynq stops", stopped, errors.New("OOM command not allowed"), 0},
		} {
			began := time.Now()
			err := ErrorBackoffHook().ProcessHook(func(context.Context, redis.Cmder) error { return tc.err })(tc.ctx, redis.NewCmd(tc.ctx, "evalsha"))
			if !errors.Is(err, tc.err) {
				t.Errorf("%s: %v; want the error as it was, %v", tc.name, err, tc.err)
			}
			if took := time.Since(began); took != tc.want {
				t.Errorf("%s: waited %s; want %s", tc.name, took, tc.want)
			}
		}
	})
}
