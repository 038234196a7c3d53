package locks

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
)

// lease lets one sweep run at a time, whatever its source. *enqueuelocks.Store, the
// lock ledger, is one.
type lease interface {
	AcquireLease(ctx context.Context, owner string, ttl time.Duration) (acquired bool, err error)
	ReleaseLease(ctx context.Context, owner string) error
}

const (
	leaseTTL        = 15 * time.Second
	leaseRenewEvery = 3 * time.Second
)

// withLease calls work while it holds the lease, or returns ErrBusy. The context
// of work ends when the lease is lost.
func withLease(ctx context.Context, l lease, log *zap.Logger, work func(context.Context) error) error {
	// Each sweep is a new owner. If a sweep seems to be dead, its task runs again, and
	// must not take over the lease: the first sweep may still be running.
	owner, asked := uuid.NewString(), time.Now()
	acquired, err := l.AcquireLease(ctx, owner, leaseTTL)
	if err != nil {
		return err
	}
	if !acquired {
		return ErrBusy
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var renewing sync.WaitGroup
	renewing.Go(func() { renewLease(ctx, cancel, l, owner, asked) })
	err = work(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	cancel(nil)
	renewing.Wait()
	if err := l.ReleaseLease(context.WithoutCancel(ctx), owner); err != nil {
		log.Warn("the lease of the sweep was not released, and expires by itself", zap.Error(err))
	}
	return err
}

// renewLease extends the lease until ctx ends, and cancels the sweep when the lease
// is lost. asked is the time before the lease was acquired. The sweep is canceled
// before the lease can expire in Redis.
func renewLease(ctx context.Context, cancelSweep context.CancelCauseFunc, l lease, owner string, asked time.Time) {
	tick := time.NewTicker(leaseRenewEvery)
	defer tick.Stop()
	until := asked.Add(leaseTTL - leaseRenewEvery)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		asked = time.Now()
		limited, cancel := context.WithTimeout(ctx, leaseRenewEvery)
		extended, err := l.AcquireLease(limited, owner, leaseTTL)
		cancel()
		switch {
		case err == nil && extended:
			until = asked.Add(leaseTTL - leaseRenewEvery)
		case err == nil, !time.Now().Before(until):
			cancelSweep(errors.New("the lease of the sweep is lost"))
			return
		}
	}
}
