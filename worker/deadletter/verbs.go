package deadletter

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/time/rate"

	"github.com/kooworker/kooworker/tasks"
)

// List yields the letters that fit, latest death first (and reason by reason,
// where the filter names some), and ends with an error if Redis fails. Letters that arrive are included, letters that are being
// replayed are not.
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
				if !f.Match(l) {
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

// Stats counts the letters that fit.
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

// Result is what a bulk verb did.
type Result struct {
	Matched int `json:"matched"` // letters that fitted when it began
	Done    int `json:"done"`    // replayed or discarded
	Skipped int `json:"skipped"` // arriving, or taken by somebody else meanwhile
}

// Options of a bulk verb.
type Options struct {
	// DryRun counts and changes nothing.
	DryRun bool
	// Rate is the greatest number of letters a second; 0 is no limit.
	Rate float64
	// Canary goes ahead of a replay.
	Canary Canary
	// Settle notes for the ledger of batches what is going to be discarded, before
	// it is. Without it Discard refuses letters that belong to a batch.
	Settle func(ctx context.Context, receipts []tasks.Receipt) error
}

// ErrNoLedger is returned by Discard for letters of a batch where nobody keeps
// its ledger.
var ErrNoLedger = errors.New("the dead letter belongs to a batch, whose ledger must be told: want Options.Settle")

// replayCmd puts a parked letter into pending, provided that it is as it was
// seen: it may have been replayed and have died of something else since.
//
// KEYS[1] -> asynq:{dead-letter}:t:<id>
// KEYS[2] -> asynq:{dead-letter}:retry
// KEYS[3] -> asynq:{dead-letter}:pending
// --
// ARGV[1] -> ID
// ARGV[2] -> least score of a parked letter
// ARGV[3] -> the message that was seen
// ARGV[4] -> the current time in Unix ns, which asynq notes for what is pending
//
// Returns 1, or 0 if the letter has changed or is not parked any more.
var replayCmd = redis.NewScript(asSeenLua + `
redis.call("ZREM", KEYS[2], ARGV[1])
redis.call("LPUSH", KEYS[3], ARGV[1])
redis.call("HSET", KEYS[1], "state", "pending", "pending_since", ARGV[4])
return 1
`)

// discardCmd deletes a parked letter, provided that it is as it was seen. KEYS
// and ARGV are replayCmd's, of which the last of each is not used, and so is
// what it returns.
var discardCmd = redis.NewScript(asSeenLua + `
redis.call("ZREM", KEYS[2], ARGV[1])
redis.call("DEL", KEYS[1])
return 1
`)

// Replay lets the letters that fit be carried out once more, in their place.
// It returns when they are on their way, not when they are done. A letter that
// dies again meanwhile is not replayed again.
func (s *Store) Replay(ctx context.Context, f Filter, o Options) (Result, error) {
	return s.each(ctx, f, o, replayCmd, func(context.Context, []entry) error { return nil })
}

// Discard deletes the letters that fit, for good.
//
// The ledger hears of a letter before it is deleted. A crash in between leaves a
// letter that counts as discarded; to discard it again deletes it, and if it is
// replayed instead, the ledger takes what becomes of it.
func (s *Store) Discard(ctx context.Context, f Filter, o Options) (Result, error) {
	o.Canary = Canary{} // nothing is to be learned from a deletion
	return s.each(ctx, f, o, discardCmd, o.settleDiscarded)
}

// settleDiscarded tells the ledger.
func (o Options) settleDiscarded(ctx context.Context, chunk []entry) error {
	var receipts []tasks.Receipt
	for _, e := range chunk {
		l := e.letter()
		task, in, err := l.Task()
		if err != nil || !in.BatchRef.IsSet() {
			continue
		}
		receipts = append(receipts, tasks.Receipt{
			BatchRef: in.BatchRef, Kind: l.Kind, UserID: task.User(), Target: task.Target(),
			Outcome: tasks.Discarded, Reason: l.Reason, Attempts: l.Attempts,
		})
	}
	if len(receipts) == 0 {
		return nil
	}
	if o.Settle == nil {
		return ErrNoLedger
	}
	return o.Settle(ctx, receipts)
}

// each runs a script for every letter that fits, several at a time, and before
// it what is to be done first.
func (s *Store) each(ctx context.Context, f Filter, o Options, script *redis.Script, first func(context.Context, []entry) error) (Result, error) {
	var res Result
	if err := o.Canary.validate(); err != nil {
		return res, err
	}
	if err := script.Load(ctx, s.rdb).Err(); err != nil {
		return res, fmt.Errorf("load the script: %w", err)
	}
	pace, canary := newPace(o.Rate), &canaryFlight{Canary: o.Canary}
	for page, err := range s.pages(ctx, f) {
		if err != nil {
			return res, err
		}
		fitting := fitting(page, f, &res)
		if o.DryRun {
			continue
		}
		for len(fitting) > 0 {
			n := min(pace.chunk, len(fitting))
			ahead := canary.takes(n)
			if ahead > 0 {
				n = ahead
			}
			chunk := fitting[:n]
			fitting = fitting[n:]
			if err := pace.wait(ctx, n); err != nil {
				return res, err
			}
			if err := first(ctx, chunk); err != nil {
				return res, fmt.Errorf("dead letters: %w", err)
			}
			took, err := s.run(ctx, script, chunk)
			res.Done, res.Skipped = res.Done+len(took), res.Skipped+n-len(took)
			if err != nil {
				return res, err
			}
			if ahead == 0 {
				continue
			}
			if canary.sent = append(canary.sent, took...); len(canary.sent) >= canary.Size {
				if err := s.judge(ctx, canary); err != nil {
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

// fitting counts and returns the entries that fit; those that arrive cannot be
// acted upon.
func fitting(page []entry, f Filter, res *Result) []entry {
	var out []entry
	for _, e := range page {
		if f.Limit > 0 && res.Matched >= f.Limit {
			break
		}
		if !f.Match(e.letter()) {
			continue
		}
		res.Matched++
		if e.score == "" {
			res.Skipped++
			continue
		}
		out = append(out, e)
	}
	return out
}

// run runs a script for some letters in one exchange, and returns those that it
// took.
func (s *Store) run(ctx context.Context, script *redis.Script, chunk []entry) (took []entry, err error) {
	results := make([]*redis.Cmd, 0, len(chunk))
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, e := range chunk {
			results = append(results, script.EvalSha(ctx, p, []string{taskPrefix + e.id, retryKey, pendingKey},
				e.id, leastParked(), e.message, time.Now().UnixNano()))
		}
		return nil
	})
	for i, result := range results {
		if n, err := result.Int(); err == nil && n == 1 {
			took = append(took, chunk[i])
		}
	}
	if err != nil {
		return took, fmt.Errorf("dead letters: %w", err)
	}
	return took, nil
}

// pace spreads letters over time.
type pace struct {
	limiter *rate.Limiter
	chunk   int // letters in one exchange with Redis
}

const maxChunk = 100 // scripts in a row, well below the time that anybody would notice

func newPace(perSecond float64) pace {
	if perSecond <= 0 {
		return pace{rate.NewLimiter(rate.Inf, maxChunk), maxChunk}
	}
	const steps = 20 // a second
	chunk := min(max(int(perSecond/steps), 1), maxChunk)
	return pace{rate.NewLimiter(rate.Limit(perSecond), chunk), chunk}
}

func (p pace) wait(ctx context.Context, n int) error { return p.limiter.WaitN(ctx, n) }
