package worker

import (
	"context"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/worker/outage"
	"github.com/kooworker/kooworker/worker/redischeck"
)

// Outage returns what holds back log lines about an outage of Redis, for what else uses the
// worker's Redis. Run runs it.
func (w *Worker) Outage() *outage.Watch { return w.outage }

// UnreachableError means that Redis did not answer in time at the start.
type UnreachableError struct {
	Waited time.Duration
	Err    error
}

// Error implements error.
func (e *UnreachableError) Error() string {
	return fmt.Sprintf("Redis did not answer within %s: %v", e.Waited, e.Err)
}

// Unwrap returns the last error of the connection.
func (e *UnreachableError) Unwrap() error { return e.Err }

// Hint says what to do about it.
func (e *UnreachableError) Hint() string {
	return outage.Hint(e.Err) + "; --startup-timeout waits longer"
}

// awaitRedis pings Redis until it answers, with growing pauses.
func (w *Worker) awaitRedis(ctx context.Context) error {
	pause := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(100*time.Millisecond), backoff.WithMaxInterval(3*time.Second), backoff.WithMaxElapsedTime(w.cfg.StartupTimeout))
	limited, cancel := context.WithTimeout(ctx, w.cfg.StartupTimeout)
	defer cancel()
	var last error
	err := backoff.RetryNotify(func() error {
		err := w.ping(limited)
		if err != nil && limited.Err() == nil {
			last = err
		}
		return err
	}, backoff.WithContext(pause, limited), func(err error, next time.Duration) {
		w.log.Warn("Redis does not answer yet", zap.Error(err), zap.Duration("next_try", next))
	})
	if err == nil {
		return nil
	}
	if last == nil {
		last = err
	}
	return &UnreachableError{Waited: w.cfg.StartupTimeout, Err: last}
}

func (w *Worker) ping(ctx context.Context) error { return redischeck.Ping(ctx, w.rdb) }
