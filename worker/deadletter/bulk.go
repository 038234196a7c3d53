package deadletter

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/time/rate"

	"github.com/kooworker/kooworker/tasks"
)

// List yields the letters that match, the latest death first; if the filter names
// reasons, reason by reason. It ends with an error if Redis fails. Letters that
// arrive are included, and letters that are being replayed are not.
func (s *Store) List(ctx context.Context, f Filter) iter.Seq2[Letter, error] {
	return func(yield func(Letter, error) bool) {
		n := 0
		for page, err := range s.pages(ctx, f) {
			if err != nil {
				yield(Letter{}, err)
				return
			}
			for _, e := range page {
				l := e.letter()
				if !f.matches(l) {
					continue
				}
				if !yield(l, nil) {
					return
				}
				if n++; n == f.Limit {
					return
				}
			}
		}
	}
}

// Stats counts the dead letters.
type Stats struct {
	Total    int                  `json:"total"`
	ByReason map[tasks.Reason]int `json:"by_reason"`
	ByKind   map[tasks.Kind]int   `json:"by_kind"`
}

// Stats counts the letters that match.
func (s *Store) Stats(ctx context.Context, f Filter) (Stats, error) {
	stats := Stats{ByReason: map[tasks.Reason]int{}, ByKind: map[tasks.Kind]int{}}
	for l, err := range s.List(ctx, f) {
		if err != nil {
			return Stats{}, err
		}
		stats.Total++
		stats.ByReason[l.Reason]++
		stats.ByKind[l.Kind]++
	}
	return stats, nil
}

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
}

// ErrNoLedger is returned by Discard for letters of a batch if
// Options.RecordOutcomes is not set.
var ErrNoLedger = errors.New("the dead letter belongs to a batch, and its ledger must know: want Options.RecordOutcomes")

// replayCmd puts a parked letter into pending, unless it has changed: it may have
// been replayed, and have died of another reason, since it was read.
//
// KEYS[1] -> asynq:{dead-letter}:t:<id>
// KEYS[2] -> asynq:{dead-letter}:retry
// KEYS[3] -> asynq:{dead-letter}:pending
// KEYS[4…] -> kooworker:{dead-letter}:reason:<reason>, of all reasons
// --
// ARGV[1] -> ID
// ARGV[2] -> least score of a parked letter
// ARGV[3] -> the message that was read
// ARGV[4] -> the current time in Unix ns, which asynq keeps of pending tasks
//
// Returns 1, or 0 if the letter has changed or is not parked any more.
var replayCmd = redis.NewScript(ifUnchangedLua + `
redis.call("ZREM", KEYS[2], ARGV[1])
redis.call("LPUSH", KEYS[3], ARGV[1])
redis.call("HSET", KEYS[1], "state", "pending", "pending_since", ARGV[4])
return 1
`)

// discardCmd deletes a parked letter and its entries in the index, unless it has
// changed. It has the KEYS and ARGV of replayCmd, and returns the same. It does not
// use pending and the time.
var discardCmd = redis.NewScript(ifUnchangedLua + `
redis.call("ZREM", KEYS[2], ARGV[1])
redis.call("DEL", KEYS[1])
for i = 4, #KEYS do redis.call("ZREM", KEYS[i], ARGV[1]) end
return 1
`)

// Replay makes the letters that match run once more, in their queue. It returns
// when they are pending, not when they are done. A letter that dies again
// meanwhile is not replayed again.
func (s *Store) Replay(ctx context.Context, f Filter, o Options) (Result, error) {
	return s.bulkApply(ctx, f, o, replayCmd, func(context.Context, []entry) error { return nil })
}

// Discard deletes the letters that match, for good.
//
// It records a letter in the ledger before it deletes it. A crash in between
// leaves a letter that counts as discarded. Discarding it again deletes it. If it
// is replayed instead, the ledger records the outcome of the replay.
func (s *Store) Discard(ctx context.Context, f Filter, o Options) (Result, error) {
	o.Canary = Canary{} // a deletion has no outcome to wait for
	return s.bulkApply(ctx, f, o, discardCmd, o.recordDiscarded)
}

// recordDiscarded records letters as discarded.
func (o Options) recordDiscarded(ctx context.Context, chunk []entry) error {
	var receipts []tasks.Receipt
	for _, e := range chunk {
		if receipt, ok := e.letter().Receipt(tasks.Discarded); ok {
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

// bulkApply runs a script for every letter that matches, chunk by chunk. It calls
// before with each chunk first.
func (s *Store) bulkApply(ctx context.Context, f Filter, o Options, script *redis.Script, before func(context.Context, []entry) error) (Result, error) {
	var res Result
	if err := o.Canary.validate(); err != nil {
		return res, err
	}
	if err := script.Load(ctx, s.rdb).Err(); err != nil {
		return res, fmt.Errorf("load the script: %w", err)
	}
	limiter, canary := newLimiter(o.Rate), &canaryRun{Canary: o.Canary}
	for page, err := range s.pages(ctx, f) {
		if err != nil {
			return res, err
		}
		matching := filterMatching(page, f, &res)
		if o.DryRun {
			continue
		}
		for len(matching) > 0 {
			n := min(limiter.Burst(), len(matching))
			isCanary := canary.remaining() > 0
			if isCanary {
				n = min(n, canary.remaining())
			}
			chunk := matching[:n]
			matching = matching[n:]
			if err := limiter.WaitN(ctx, n); err != nil {
				return res, err
			}
			if err := before(ctx, chunk); err != nil {
				return res, fmt.Errorf("dead letters: %w", err)
			}
			done, err := s.run(ctx, script, chunk)
			res.Done, res.Skipped = res.Done+len(done), res.Skipped+n-len(done)
			if err != nil {
				return res, err
			}
			if !isCanary {
				continue
			}
			if canary.sent = append(canary.sent, done...); canary.remaining() == 0 {
				if err := s.awaitCanary(ctx, canary); err != nil {
					return res, err
				}
			}
		}
		if f.Limit > 0 && res.Matched >= f.Limit {
			break
		}
	}
	return res, nil
}

// filterMatching counts the entries that match, and returns those that are parked.
// The script cannot act on those that arrive.
func filterMatching(page []entry, f Filter, res *Result) []entry {
	var out []entry
	for _, e := range page {
		if f.Limit > 0 && res.Matched >= f.Limit {
			break
		}
		if !f.matches(e.letter()) {
			continue
		}
		res.Matched++
		if !isParked(e.score) {
			res.Skipped++
			continue
		}
		out = append(out, e)
	}
	return out
}

// run runs a script for some letters in one exchange with Redis. It returns those
// that had not changed.
func (s *Store) run(ctx context.Context, script *redis.Script, chunk []entry) (done []entry, err error) {
	results, keys := make([]*redis.Cmd, 0, len(chunk)), append([]string{retryKey, pendingKey}, indexKeys()...)
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, e := range chunk {
			results = append(results, script.EvalSha(ctx, p, append([]string{taskPrefix + e.id}, keys...),
				e.id, minParkedScore(), e.message, time.Now().UnixNano()))
		}
		return nil
	})
	for i, result := range results {
		if n, err := result.Int(); err == nil && n == 1 {
			done = append(done, chunk[i])
		}
	}
	if err != nil {
		return done, fmt.Errorf("dead letters: %w", err)
	}
	return done, nil
}

// newLimiter spreads letters over time. Its burst is how many letters travel in
// one exchange with Redis. At 100 scripts in a row nobody else waits noticeably.
func newLimiter(perSecond float64) *rate.Limiter {
	const maxBurst, exchanges = 100, 20 // the latter a second
	if perSecond <= 0 {
		return rate.NewLimiter(rate.Inf, maxBurst)
	}
	return rate.NewLimiter(rate.Limit(perSecond), min(max(int(perSecond/exchanges), 1), maxBurst))
}
