package batch

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/userindex"
	"github.com/kooworker/kooworker/tasks"
)

// Cancellation says that tasks of a batch must not run any more.
type Cancellation struct {
	// Batch is the batch's ID.
	Batch string
	// UserID and Kind select the tasks; what is empty selects all.
	UserID string
	Kind   tasks.Kind
	// Reason is what the operator says: one line, may be empty.
	Reason string
	// By names the operator, for the log of the workers.
	By string
}

// IsWhole reports whether all tasks of the batch are cancelled.
func (c Cancellation) IsWhole() bool { return c.UserID == "" && c.Kind == "" }

// Covers reports whether the task is one of those that are cancelled. ref says which
// batch it belongs to.
func (c Cancellation) Covers(ref tasks.BatchRef, t tasks.Task) bool {
	return ref.Batch == c.Batch && (c.UserID == "" || c.UserID == t.User()) && (c.Kind == "" || c.Kind == t.Kind())
}

// ReceiptReason is the reason in the receipts of the tasks.
func (c Cancellation) ReceiptReason() tasks.Reason {
	if c.Reason == "" {
		return tasks.CalledOff
	}
	return tasks.CalledOff + ": " + tasks.Reason(c.Reason)
}

// CancelledError means that a batch was cancelled, so that nothing more can be
// enqueued into it.
type CancelledError struct{ ID string }

// Error implements error.
func (e *CancelledError) Error() string { return fmt.Sprintf("batch %s was cancelled", e.ID) }

// Hint says what to do about it.
func (e *CancelledError) Hint() string {
	return "nothing more of it runs; put what is to run after all into another batch"
}

// cancelledKey is the key of the cancellations: a hash whose fields are those of
// Cancellation.field, and one that counts the changes. Workers read it every second.
const (
	cancelledKey   = "kooworker:batches:cancelled"
	changesOfField = "changes"
)

// field is the name of a cancellation's field. No part contains a space.
func (c Cancellation) field() string {
	return c.Batch + " " + string(c.Kind) + " " + c.UserID
}

// cancelCmd adds a cancellation.
//
// KEYS[1] -> kooworker:batches:cancelled
// --
// ARGV[1] -> field
// ARGV[2] -> who, a line feed and why
//
// Returns how often the hash was changed.
var cancelCmd = redis.NewScript(`
redis.call("HSET", KEYS[1], ARGV[1], ARGV[2])
return redis.call("HINCRBY", KEYS[1], "` + changesOfField + `", 1)
`)

// Cancel records that tasks of a batch must not run. Workers learn it within a second or two, and
// record such a task as cancelled instead of running it. If the whole batch is
// cancelled, producers that still feed it get a *CancelledError.
//
// The tasks that wait stay where they are; package waiting takes them out of their
// queues. If the process dies in between, a worker finds each when its turn comes.
//
// The workers are told first. If the process dies before the producers are told, a
// producer goes on, and what it enqueues is cancelled by the workers.
func (s *Store) Cancel(ctx context.Context, c Cancellation) error {
	if _, err := s.Show(ctx, c.Batch); err != nil {
		return err
	}
	if strings.ContainsAny(c.Reason+c.By, "\n") {
		return fmt.Errorf("batch %s: the reason has several lines; want one", c.Batch)
	}
	if err := cancelCmd.Run(ctx, s.rdb, []string{cancelledKey}, c.field(), c.By+"\n"+c.Reason).Err(); err != nil {
		return fmt.Errorf("batch %s: cancel: %w", c.Batch, err)
	}
	if !c.IsWhole() {
		return nil
	}
	exists, err := tellProducersCmd.Run(ctx, s.rdb, []string{keysOf(c.Batch).meta}).Bool()
	if err == nil && !exists {
		return &NotFoundError{ID: c.Batch}
	}
	if err != nil {
		return fmt.Errorf("batch %s: cancel: %w", c.Batch, err)
	}
	return nil
}

// tellProducersCmd records in a batch that it is cancelled.
//
// KEYS[1] -> meta
//
// Returns 0 if there is no such batch, else 1.
var tellProducersCmd = redis.NewScript(`
if redis.call("EXISTS", KEYS[1]) == 0 then return 0 end
redis.call("HSET", KEYS[1], "cancelled_whole", 1)
return 1
`)

// Cancellations are those that a worker knows. The zero value knows none.
type Cancellations struct {
	changes string
	byBatch map[string][]Cancellation
}

// Of returns the cancellation that covers a task, if there is one.
func (all *Cancellations) Of(ref tasks.BatchRef, t tasks.Task) (c Cancellation, ok bool) {
	if all == nil || !ref.IsSet() {
		return c, false
	}
	for _, c := range all.byBatch[ref.Batch] {
		if c.Covers(ref, t) {
			return c, true
		}
	}
	return c, false
}

// readCancelledCmd reads the cancellations unless they are known.
//
// KEYS[1] -> kooworker:batches:cancelled
// --
// ARGV[1] -> how often the hash was changed when it was last read; "" at first
//
// Returns the hash, or nothing if it has not changed.
var readCancelledCmd = redis.NewScript(`
if (redis.call("HGET", KEYS[1], "` + changesOfField + `") or "") == ARGV[1] then return false end
return redis.call("HGETALL", KEYS[1])
`)

// Cancellations reads those of all batches. It returns known, which it may be nil, if
// nothing has changed since that was read.
func (s *Store) Cancellations(ctx context.Context, known *Cancellations) (*Cancellations, error) {
	if known == nil {
		known = &Cancellations{}
	}
	pairs, err := readCancelledCmd.Run(ctx, s.rdb, []string{cancelledKey}, known.changes).StringSlice()
	if errors.Is(err, redis.Nil) {
		return known, nil
	}
	if err != nil {
		return known, fmt.Errorf("read which batches are cancelled: %w", err)
	}
	out := &Cancellations{byBatch: make(map[string][]Cancellation)}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i] == changesOfField {
			out.changes = pairs[i+1]
			continue
		}
		if c, ok := readCancellation(pairs[i], pairs[i+1]); ok {
			out.byBatch[c.Batch] = append(out.byBatch[c.Batch], c)
		}
	}
	return out, nil
}

// readCancellation reads a field of the hash. It passes over one that is not of this
// version.
func readCancellation(field, value string) (c Cancellation, ok bool) {
	parts := strings.Split(field, " ")
	if len(parts) != 3 || tasks.ValidateBatchID(parts[0]) != nil {
		return c, false
	}
	by, reason, _ := strings.Cut(value, "\n")
	return Cancellation{Batch: parts[0], Kind: tasks.Kind(parts[1]), UserID: parts[2], Reason: reason, By: by}, true
}

// PruneCancelled removes the cancellations of a page whose batch's name may be used
// again, and moves the position to the next page. Until then a task of the batch
// may turn up, and must not run.
func (s *Store) PruneCancelled(ctx context.Context, at *ListPosition) (removed int64, err error) {
	pairs, next, err := s.rdb.HScan(ctx, cancelledKey, at.cursor, "", listPage).Result()
	if err != nil {
		return 0, fmt.Errorf("list the cancelled batches: %w", err)
	}
	used := make(map[string]*redis.IntCmd) // by field
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := 0; i < len(pairs); i += 2 { // a field is followed by its value
			if c, ok := readCancellation(pairs[i], pairs[i+1]); ok {
				used[pairs[i]] = p.Exists(ctx, keysOf(c.Batch).used)
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("list the cancelled batches: %w", err)
	}
	var free []string
	for field, cmd := range used {
		if cmd.Val() == 0 {
			free = append(free, field)
		}
	}
	at.cursor = next
	if len(free) == 0 {
		return 0, nil
	}
	if removed, err = s.rdb.HDel(ctx, cancelledKey, free...).Result(); err == nil {
		err = s.rdb.HIncrBy(ctx, cancelledKey, changesOfField, 1).Err()
	}
	if err != nil {
		return removed, fmt.Errorf("forget cancelled batches: %w", err)
	}
	return removed, nil
}

// cancelRestCmd records tasks as cancelled that no queue holds.
//
// KEYS -> meta, states, receipts, revised, slots, users, used
// --
// ARGV[1] -> ms for which the name stays reserved after the batch has expired
// ARGV[2] -> the reason in the receipts
// ARGV[3] -> how many tasks at most
// ARGV[4] -> the fingerprint of no user
// ARGV[5] -> the first index to look at
// ARGV[6] -> the last index to look at
//
// Returns how many it has recorded, the index to continue with, and how many indexes
// were given out; -1 if there is no such batch.
var cancelRestCmd = redis.NewScript(ledgerLua + `
local m = redis.call("HMGET", KEYS[1], "next", "with_receipts")
if not m[1] then
	return {0, 0, -1}
end
preload(5, 1)
local n, index = 0, tonumber(ARGV[5])
while index <= tonumber(ARGV[6]) and n < tonumber(ARGV[3]) do
	local old = stateAt(index)
	if old == QUEUED or old == DEAD then
		n = n + 1
		setState(index, old, CANCELLED)
		if m[2] == "1" then
			local id = redis.call("XADD", KEYS[3], "*", "i", index, "k", "", "u", "", "t", "", "o", "cancelled", "r", ARGV[2], "a", 0, "d", "")
			indexUser(KEYS[6], id, ARGV[4])
			if old == DEAD then
				redis.call("HSET", KEYS[4], index, id)
				redis.call("HINCRBY", KEYS[1], "revisions", 1)
			end
		end
	end
	index = index + 1
end
saveIndex(KEYS[6])
save()
completeIfDone(ARGV[1])
return {n, index, tonumber(m[1])}
`)

// CancelRest records as cancelled what a cancelled batch still counts as queued or dead. The caller
// knows that no queue holds it: somebody has deleted the tasks there, or Redis has
// lost them. The ledger does not know what they were about, so their receipts have an
// index and no user. If one turns up after all, workers do not run it. It
// returns how many there were.
func (s *Store) CancelRest(ctx context.Context, c Cancellation) (cancelled int64, err error) {
	const together, indexes = 500, 4096 // a script of these takes some milliseconds at most
	for from := int64(0); ; {
		got, err := cancelRestCmd.Run(ctx, s.rdb, keysOf(c.Batch).ledger(),
			nameReservation.Milliseconds(), string(c.ReceiptReason()), together, userindex.Fingerprint(""), from, from+indexes-1).Int64Slice()
		if err == nil && len(got) != 3 {
			err = fmt.Errorf("the reply has %d values; want 3", len(got))
		}
		if err != nil {
			return cancelled, fmt.Errorf("batch %s: cancel: %w", c.Batch, err)
		}
		if got[2] < 0 {
			return cancelled, &NotFoundError{ID: c.Batch}
		}
		cancelled += got[0]
		if from = got[1]; from >= got[2] {
			return cancelled, nil
		}
	}
}

// CancelledReceipt returns the receipt of a task that is cancelled.
func (c Cancellation) CancelledReceipt(ref tasks.BatchRef, t tasks.Task, attempts int) tasks.Receipt {
	return tasks.Receipt{
		BatchRef: ref, Kind: t.Kind(), UserID: t.User(), Target: t.Target(),
		Outcome: tasks.Cancelled, Reason: c.ReceiptReason(), Attempts: attempts,
	}
}
