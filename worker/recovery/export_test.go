package recovery

import (
	"context"
	"errors"
)

// Pass is one pass, for tests that count them. As for Run, a lock that another one
// holds is no error.
func (r *Repairer) Pass(ctx context.Context) error {
	if err := r.pass(ctx); !errors.Is(err, errNotHeld) {
		return err
	}
	return nil
}

// ReleaseLock gives the lock back, as Run does when it ends.
func (r *Repairer) ReleaseLock(ctx context.Context) { r.releaseLock(ctx) }

// ShareLock lets two repairers hold the lock at once, as may happen for a moment
// when one of them is slow.
func ShareLock(a, b *Repairer) { b.token = a.token }
