package locks

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

// fakeLease answers the nth request for the lease.
type fakeLease struct {
	acquire  func(ctx context.Context, n int) (bool, error)
	requests int
	owner    string
	released bool
}

var _ lease = (*fakeLease)(nil)

func (f *fakeLease) AcquireLease(ctx context.Context, owner string, _ time.Duration) (bool, error) {
	f.owner = owner
	f.requests++
	return f.acquire(ctx, f.requests)
}

func (f *fakeLease) ReleaseLease(ctx context.Context, owner string) error {
	f.released = owner == f.owner
	return ctx.Err()
}

// untilStopped is a sweep that goes on until its context ends.
func untilStopped(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestWithLease_EndsTheSweepBeforeTheLeaseExpires(t *testing.T) {
	t.Parallel()
	for name, acquire := range map[string]func(context.Context, int) (bool, error){
		"somebody else has it": func(_ context.Context, n int) (bool, error) { return n < 3, nil },
		"Redis is away": func(_ context.Context, n int) (bool, error) {
			if n > 1 {
				return false, errors.New("away")
			}
			return true, nil
		},
		"Redis hangs": func(ctx context.Context, n int) (bool, error) {
			if n > 1 {
				<-ctx.Done()
				return false, ctx.Err()
			}
			return true, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := &fakeLease{acquire: acquire}
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				err := withLease(ctx, f, zap.NewNop(), untilStopped)
				if err == nil || !strings.Contains(err.Error(), "the lease of the sweep is lost") {
					t.Errorf("%v; want that the lease is lost", err)
				}
				if took := time.Since(began); took > leaseTTL {
					t.Errorf("it ended after %s; want it before the lease expires after %s", took, leaseTTL)
				}
				if !f.released {
					t.Error("the lease was not released")
				}
			})
		})
	}
}

func TestWithLease_AShortOutageDoesNotEndTheSweep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeLease{acquire: func(_ context.Context, n int) (bool, error) {
			if n == 2 || n == 3 {
				return false, errors.New("away")
			}
			return true, nil
		}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := withLease(ctx, f, zap.NewNop(), untilStopped); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v; want that it ended by its own deadline", err)
		}
		if !f.released {
			t.Error("the lease was not released")
		}
	})
}
