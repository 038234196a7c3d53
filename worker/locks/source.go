package locks

import (
	"context"
	"iter"
	"time"

	enqueuelocks "github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/tasks"
)

// Source counts locks, lists the stale ones, and remembers which were swept. A
// Ledger and an External are Sources.
type Source interface {
	// Kind names the source in the releases of its locks.
	Kind() tasks.SourceKind
	// Stats counts the locks. A lock is stale once it has been expired for as long as
	// grace, by Redis' clock. The caller reads at most limit locks of Stats.Oldest.
	Stats(ctx context.Context, grace time.Duration, limit int64) (Stats, error)
	// MarkSwept records that the releases of these locks are enqueued.
	MarkSwept(ctx context.Context, swept []tasks.Lock) error
	// Drop forgets swept locks that were not needed for longer than keep.
	Drop(ctx context.Context, keep time.Duration) (dropped int64, err error)
}

// Stats says how many locks a source has, and which of them are stale.
type Stats struct {
	// Total is the number of locks whose release is not enqueued yet. If it counted
	// the others as well, the share of stale locks would look too small.
	Total int64
	// Stale is the number of stale locks among them.
	Stale int64
	// Oldest yields stale locks, the oldest first. It ends after the first error.
	Oldest iter.Seq2[tasks.Lock, error]
	// Unreadable is the number of locks whose expiry cannot be read. They are in
	// none of the other numbers.
	Unreadable int64
	// FirstUnreadable says what is wrong with one of them.
	FirstUnreadable error
}

// Ledger is the lock ledger in Redis as a Source.
type Ledger struct {
	*enqueuelocks.Store
}

var _ Source = Ledger{}

// Kind implements Source.
func (Ledger) Kind() tasks.SourceKind { return tasks.SourceLedger }

// Stats implements Source. It reads the stale locks while the caller takes them.
func (l Ledger) Stats(ctx context.Context, grace time.Duration, _ int64) (Stats, error) {
	n, err := l.Counts(ctx, grace)
	return Stats{Total: n.Total - n.Swept, Stale: n.Stale, Oldest: l.Stale(ctx, grace)}, err
}
