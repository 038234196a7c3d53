package batch

import (
	"context"
	"fmt"

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

// Cancel records that tasks of a batch must not run. Workers learn it within a second or
// two, and record such a task as cancelled instead of running it. If the whole batch is
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
	if err := s.stop(ctx, c.field(), c.By, c.Reason); err != nil {
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

// CancelRest records as cancelled what a cancelled batch still counts as queued or dead.
// The caller knows that no queue holds it: somebody has deleted the tasks there, or Redis
// has lost them. The ledger does not know what they were about, so their receipts have an
// index and no user. If one turns up after all, workers do not run it. It returns how many
// there were.
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
