package recovery

import "context"

// Pass is one pass, for tests that count them.
func (r *Repairer) Pass(ctx context.Context) error { return r.pass(ctx) }

// ReleaseLock gives the lock back, as Run does when it ends.
func (r *Repairer) ReleaseLock(ctx context.Context) { r.releaseLock(ctx) }

// ShareLock lets two repairers hold the lock at once, as may happen for a moment
// when one of them is slow.
func ShareLock(a, b *Repairer) { b.token = a.token }
