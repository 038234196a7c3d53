package batch

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/userindex"
	"github.com/kooworker/kooworker/tasks"
)

// OfUser yields all receipts of a user, batch by batch, each in the order in which they
// were written. Their Source is set, but for sweeps, whose batches are like any other
// here. A batch without receipts has none, and one that was deleted or has expired has
// none any more. It ends with an error if Redis fails.
func (s *Store) OfUser(ctx context.Context, userID string) iter.Seq2[tasks.Receipt, error] {
	return func(yield func(tasks.Receipt, error) bool) {
		ids, logs, err := s.logs(ctx)
		if err != nil {
			yield(tasks.Receipt{}, err)
			return
		}
		var input inputMap
		var seen map[int64]bool // the indexes of this batch that had a receipt already
		last := -1
		for e, err := range userindex.Find(ctx, s.rdb, logs, userID) {
			var r tasks.Receipt
			if err == nil {
				r, err = readReceipt(ids[e.Log], e.XMessage)
			}
			if err == nil && e.Log != last {
				last, seen = e.Log, make(map[int64]bool)
				input, err = s.inputMapOf(ctx, r.Batch)
			}
			if err != nil {
				yield(tasks.Receipt{}, fmt.Errorf("receipts of a user: %w", err))
				return
			}
			switch {
			case seen[r.Index]: // only what was dead gets another receipt
				r.Source = tasks.FromDeadLetter
			case r.Kind == tasks.KindUserOffboard, input.item(r.Index) == 0:
				r.Source = tasks.FromOffboarding
			default:
				r.Source = tasks.FromBatch
			}
			seen[r.Index] = true
			if !yield(r, nil) {
				return
			}
		}
	}
}

// logs returns the IDs of all batches, and where their receipts are.
func (s *Store) logs(ctx context.Context) (ids []string, logs []userindex.Log, err error) {
	ids, err = s.rdb.ZRange(ctx, allKey, 0, -1).Result()
	if err != nil {
		return nil, nil, fmt.Errorf("list the batches: %w", err)
	}
	for _, id := range ids {
		k := keysOf(id)
		logs = append(logs, userindex.Log{Stream: k.receipts, Index: k.users})
	}
	return ids, logs, nil
}

// forgetCmd removes receipts of a user, and records how many, for the audit.
//
// KEYS -> meta, receipts, users
// --
// ARGV[1] -> the user's fingerprint
// ARGV[2..] -> ID and offset of each receipt
//
// Returns how many there were.
var forgetCmd = redis.NewScript(userindex.ForgetLua + `
local n = forgetReceipts(KEYS[2], KEYS[3], ARGV[1], 2)
if n > 0 then
	redis.call("HINCRBY", KEYS[1], "forgotten", n)
end
return n
`)

// ForgetUser removes the receipts of a user from all batches, and returns how many there
// were. The counts of the batches stay, and their audit is clean. The caller knows that
// no task of the user is outstanding or dead: it would get another receipt. Forgetting twice
// has the effect of forgetting once.
//
// Redis keeps the bytes of a receipt until some hundred neighbours of it are gone as
// well, and until its files are written anew. No command shows them.
func (s *Store) ForgetUser(ctx context.Context, userID string) (forgotten int64, err error) {
	ids, logs, err := s.logs(ctx)
	if err != nil {
		return 0, err
	}
	// They are collected first: what is removed moves the others.
	found := make(map[string][]any) // by batch: ID and offset of each receipt
	for e, err := range userindex.Find(ctx, s.rdb, logs, userID) {
		if err != nil {
			return 0, err
		}
		found[ids[e.Log]] = append(found[ids[e.Log]], e.ID, e.Offset)
	}
	const together = 2 * 500 // a script of these takes some milliseconds at most
	for id, args := range found {
		k := keysOf(id)
		for some := range slices.Chunk(args, together) {
			n, err := forgetCmd.Run(ctx, s.rdb, []string{k.meta, k.receipts, k.users}, append([]any{userindex.Fingerprint(userID)}, some...)...).Int64()
			if err != nil {
				return forgotten, fmt.Errorf("batch %s: forget a user: %w", id, err)
			}
			forgotten += n
		}
	}
	return forgotten, nil
}
