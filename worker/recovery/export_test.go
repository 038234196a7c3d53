package recovery

import "context"

// Pass is one pass, for tests that count them.
func (r *Repairer) Pass(ctx context.Context) error { return r.pass(ctx) }

// Release gives the lock back, as Run does when it ends.
func (r *Repairer) Release(ctx context.Context) { r.release(ctx) }

// ShareLock lets two repairers hold the lock at once, as they may for a moment
// when one is slow.
func ShareLock(a, b *Repairer) { b.token = a.token }
