package batch

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// Recent is what the latest receipts of a batch say of its progress.
type Recent struct {
	// Kinds are those of the tasks that have ended last.
	Kinds []tasks.Kind
	// Tasks is how many tasks have ended in the last Span. It is 0 if that is not known
	// yet: because no task has ended, or the first ones have just ended.
	Tasks int
	Span  time.Duration
	// Attempts is the sum of the attempts of these tasks.
	Attempts int
	// IsStalled says that tasks have ended, but none in the last minute.
	IsStalled bool
}

// Rate returns how many tasks have ended per second, 0 if that is not known.
func (r Recent) Rate() float64 {
	if r.Tasks == 0 {
		return 0
	}
	return float64(r.Tasks) / r.Span.Seconds()
}

const (
	recentReceipts = 500         // that Recent reads at most
	recentSpan     = time.Minute // the age up to which they count
	recentKinds    = 20          // receipts whose kinds count
	leastSpan      = time.Second // below it, fewer receipts than recentReceipts say nothing
)

// Recent reads the latest receipts of a batch, in one round trip. It says nothing of a batch
// without receipts. Times are by Redis' clock.
func (s *Store) Recent(ctx context.Context, id string) (Recent, error) {
	var now *redis.TimeCmd
	var latest *redis.XMessageSliceCmd
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		latest = p.XRevRangeN(ctx, keysOf(id).receipts, "+", "-", recentReceipts)
		now = p.Time(ctx)
		return nil
	})
	if err != nil {
		return Recent{}, fmt.Errorf("batch %s: receipts: %w", id, err)
	}
	out, err := recentOf(latest.Val(), now.Val())
	if err != nil {
		return Recent{}, fmt.Errorf("batch %s: receipts: %w", id, err)
	}
	return out, nil
}

// recentOf is Recent of entries, latest first. The span begins with the oldest entry
// that counts, which is therefore not counted, nor are those of the same moment: many outcomes
// are recorded together.
func recentOf(latest []redis.XMessage, now time.Time) (out Recent, err error) {
	for i, e := range latest {
		kind, _ := e.Values["k"].(string)
		if i < recentKinds && kind != "" && !slices.Contains(out.Kinds, tasks.Kind(kind)) {
			out.Kinds = append(out.Kinds, tasks.Kind(kind))
		}
	}
	if len(latest) == 0 {
		return out, nil
	}
	begin := now.Add(-recentSpan)
	oldest, err := recordedAt(latest[len(latest)-1].ID)
	if err != nil {
		return out, err
	}
	if oldest.After(begin) {
		begin = oldest
	}
	out.IsStalled = true
	for _, e := range latest {
		at, err := recordedAt(e.ID)
		if err != nil {
			return out, err
		}
		if now.Sub(at) < recentSpan {
			out.IsStalled = false
		}
		if outcome, _ := e.Values["o"].(string); !at.After(begin) || tasks.Outcome(outcome) == tasks.Discarded {
			continue // a discarded task is a dead letter, which has ended before
		}
		attempts, _ := e.Values["a"].(string)
		n, err := strconv.Atoi(attempts)
		if err != nil {
			return out, fmt.Errorf("attempts: %w", err)
		}
		out.Tasks++
		out.Attempts += n
	}
	if out.Span = now.Sub(begin); out.Span <= 0 || out.Span < leastSpan && len(latest) < recentReceipts {
		out.Tasks, out.Attempts, out.Span = 0, 0, 0
	}
	return out, nil
}
