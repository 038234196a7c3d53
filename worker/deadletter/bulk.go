package deadletter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/kooworker/kooworker/tasks"
)

// Result is what Replay or Discard did.
type Result struct {
	Matched int `json:"matched"` // letters that matched
	Done    int `json:"done"`    // replayed or discarded
	Skipped int `json:"skipped"` // arriving, or changed by somebody else meanwhile
}

// Options of Replay and Discard.
type Options struct {
	// DryRun only counts, and changes nothing.
	DryRun bool
	// Rate is the greatest number of letters a second; 0 is no limit.
	Rate float64
	// Canary goes ahead of a replay.
	Canary Canary
	// RecordOutcomes records which letters are discarded, before they are: those of batches
	// and the others. Without it Discard refuses letters that belong to a batch.
	RecordOutcomes func(ctx context.Context, receipts []tasks.Receipt) error
	// Fence makes the change one that can be continued. Without it a change that is
	// interrupted leaves the rest as it was.
	Fence *Fence
}

// ErrNoLedger is returned by Discard for letters of a batch if
// Options.RecordOutcomes is not set.
var ErrNoLedger = errors.New("the dead letter belongs to a batch, and its ledger must know: want Options.RecordOutcomes")

// Replay makes the letters that match run once more, in their queue. It returns
// when they are pending, not when they are done. A letter that dies again
// meanwhile is not replayed again.
func (s *Store) Replay(ctx context.Context, f Filter, o Options) (Result, error) {
	o.RecordOutcomes = nil
	return s.apply(ctx, f, o, replay)
}

// Discard deletes the letters that match, for good.
//
// It records a letter in the ledger before it deletes it. A crash in between
// leaves a letter that counts as discarded. Discarding it again deletes it. If it
// is replayed instead, the ledger records the outcome of the replay.
func (s *Store) Discard(ctx context.Context, f Filter, o Options) (Result, error) {
	o.Canary = Canary{} // a deletion has no outcome to wait for
	return s.apply(ctx, f, o, discard)
}

// recordDiscarded records letters as discarded.
func (o Options) recordDiscarded(ctx context.Context, chunk []match) error {
	var receipts []tasks.Receipt
	for _, m := range chunk {
		if receipt, ok := m.letter.Receipt(tasks.Discarded); ok {
			receipts = append(receipts, receipt)
		}
	}
	ofBatch := func(r tasks.Receipt) bool { return r.IsSet() }
	switch {
	case len(receipts) == 0, o.RecordOutcomes == nil && !slices.ContainsFunc(receipts, ofBatch):
		return nil
	case o.RecordOutcomes == nil:
		return ErrNoLedger
	}
	return o.RecordOutcomes(ctx, receipts)
}

// bulk is a Replay or Discard under way.
type bulk struct {
	*Store
	Options

	filter  Filter
	verb    verb
	src     source
	limiter *rate.Limiter
	canary  *canaryRun
	at      Position
	matched int // with those before the change was interrupted
	res     Result
}

// apply changes every letter that matches, chunk by chunk.
func (s *Store) apply(ctx context.Context, f Filter, o Options, v verb) (Result, error) {
	if err := o.Canary.validate(); err != nil {
		return Result{}, err
	}
	src, err := s.source(ctx, f)
	if err != nil {
		return Result{}, err
	}
	b := &bulk{Store: s, Options: o, filter: f, verb: v, src: src, limiter: newLimiter(o.Rate), canary: &canaryRun{Canary: o.Canary, sent: map[string]string{}}}
	if o.Fence != nil {
		b.at, b.matched, b.canary.sent = o.Fence.At, o.Fence.Matched, o.Fence.CanarySent
	} else if b.at, err = s.Top(ctx); err != nil {
		return Result{}, err
	}
	err = b.run(ctx)
	return b.res, err
}

func (b *bulk) run(ctx context.Context) error {
	// Perhaps the whole canary was sent before the change was interrupted.
	if err := b.judgeCanary(ctx); err != nil {
		return err
	}
	for isEnd := b.isFull(); !isEnd; {
		var page []match
		var next Position
		var looked int
		var err error
		if page, next, looked, isEnd, err = b.nextPage(ctx); err != nil {
			return err
		}
		if err := b.applyPage(ctx, page, next, looked); err != nil {
			return err
		}
		isEnd = isEnd || b.isFull()
	}
	return nil
}

// isFull reports whether the filter's limit is reached.
func (b *bulk) isFull() bool { return b.filter.Limit > 0 && b.matched+b.res.Matched >= b.filter.Limit }

// nextPage reads a page: the letters that match, the position behind it, and how many entries
// it has. If the change can be continued, it waits a moment for letters that are arriving: they
// have died before the change was ordered.
func (b *bulk) nextPage(ctx context.Context) (page []match, next Position, looked int, isEnd bool, err error) {
	const patience, pause = 2 * time.Second, 50 * time.Millisecond
	began := time.Now()
	for {
		entries, next, isEnd, err := b.read(ctx, b.src, b.at, pageSize)
		if err != nil {
			return nil, next, 0, false, err
		}
		page = b.src.selectFrom(b.filter, entries)
		if b.filter.Limit > 0 {
			page = page[:min(len(page), b.filter.Limit-b.matched-b.res.Matched)]
		}
		arrives := func(m match) bool { return !isParked(m.score) }
		if b.Fence == nil || !slices.ContainsFunc(page, arrives) || time.Since(began) > patience {
			return page, next, len(entries), isEnd, nil
		}
		select {
		case <-ctx.Done():
			return nil, next, 0, false, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// applyPage changes the letters of a page of so many entries, and moves the position behind it.
func (b *bulk) applyPage(ctx context.Context, page []match, next Position, looked int) error {
	passed := 0 // entries
	for first := true; first || len(page) > 0; first = false {
		most := min(b.verb.chunk, b.limiter.Burst())
		isCanary := b.canary.remaining() > 0
		if isCanary {
			most = min(most, b.canary.remaining())
		}
		chunk := page[:min(len(page), most)]
		page = page[len(chunk):]
		st := step{matched: len(chunk), from: b.at, to: next, looked: looked - passed, canary: isCanary}
		if len(page) > 0 {
			last := chunk[len(chunk)-1]
			st.to, st.looked = last.position(), last.nth-passed
		}
		passed += st.looked
		// The script cannot act on letters that arrive.
		parked := slices.DeleteFunc(slices.Clone(chunk), func(m match) bool { return !isParked(m.score) })
		st.skipped = len(chunk) - len(parked)
		if b.DryRun {
			b.res.Matched, b.res.Skipped, b.at = b.res.Matched+st.matched, b.res.Skipped+st.skipped, st.to
			continue
		}
		if err := b.applyChunk(ctx, parked, st); err != nil {
			return err
		}
	}
	return nil
}

// applyChunk changes some letters, and moves the position behind them.
func (b *bulk) applyChunk(ctx context.Context, chunk []match, st step) error {
	if err := b.limiter.WaitN(ctx, len(chunk)); err != nil {
		return err
	}
	if b.verb == discard {
		if err := b.Fence.check(ctx, b.rdb); err != nil {
			return err
		}
		// If the process dies here, the letters are taken for discarded, and still there.
		// If the change is continued, they are recorded once more, and deleted.
		if err := b.recordDiscarded(ctx, chunk); err != nil {
			return fmt.Errorf("dead letters: %w", err)
		}
	}
	// The letters are changed and the position is moved in one step. So the process may
	// die before or after it.
	done, err := b.change(ctx, b.verb, chunk, b.Fence, st)
	if err != nil {
		return err
	}
	b.at = st.to
	b.res.Matched, b.res.Done, b.res.Skipped = b.res.Matched+st.matched, b.res.Done+len(done), b.res.Skipped+st.skipped+len(chunk)-len(done)
	if !st.canary {
		return nil
	}
	b.canary.add(done)
	return b.judgeCanary(ctx)
}

// newLimiter spreads letters over time. Its burst is how many letters travel in
// one exchange with Redis.
func newLimiter(perSecond float64) *rate.Limiter {
	const maxBurst, exchanges = 100, 20 // the latter a second
	if perSecond <= 0 {
		return rate.NewLimiter(rate.Inf, maxBurst)
	}
	return rate.NewLimiter(rate.Limit(perSecond), min(max(int(perSecond/exchanges), 1), maxBurst))
}
