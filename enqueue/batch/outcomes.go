package batch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/userindex"
	"github.com/kooworker/kooworker/tasks"
)

// recordCmd records the outcomes of tasks and writes their receipts. A task that
// has an outcome keeps it, unless the outcome is dead or discarded. A dead letter
// that was replayed may be dead again.
//
// An index that was not given out yet is passed over: it belongs to an earlier
// batch of this name, or somebody has made it up. Recording it would take the
// index away from an item that is still to come.
//
// KEYS -> meta, states, receipts, revised, slots, users, used
// --
// ARGV[1] -> ms for which the name stays reserved after the batch has expired
// ARGV[2..] -> eleven values for each receipt: index, state, kind, user, target,
// outcome, reason, attempts, device, 1 if the task is dead again, else 0, and the
// user's fingerprint
//
// Returns 1 if this completes the batch, else 0; -1 if there is no such batch.
var recordCmd = redis.NewScript(ledgerLua + `
local m = redis.call("HMGET", KEYS[1], "next", "with_receipts")
if not m[1] then
	return -1
end
local next = tonumber(m[1])
preload(2, 11)
for i = 2, #ARGV, 11 do
	local index, new = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
	local old = index < next and stateAt(index)
	local again = old == DEAD and new == DEAD and ARGV[i + 9] == "1"
	if old and (old == ABSENT or old == QUEUED or (old == DEAD or old == DISCARDED) and old ~= new or again) then
		setState(index, old, new)
		if m[2] == "1" then
			local id = redis.call("XADD", KEYS[3], "*", "i", index, "k", ARGV[i + 2], "u", ARGV[i + 3], "t", ARGV[i + 4],
				"o", ARGV[i + 5], "r", ARGV[i + 6], "a", ARGV[i + 7], "d", ARGV[i + 8])
			indexUser(KEYS[6], id, ARGV[i + 10])
			if old ~= ABSENT and old ~= QUEUED then
				redis.call("HSET", KEYS[4], index, id)
				redis.call("HINCRBY", KEYS[1], "revisions", 1)
			end
		end
	end
end
saveIndex(KEYS[6])
save()
return completeIfDone(ARGV[1])
`)

// RecordOutcomes records what became of tasks of batches. It returns the IDs of
// the batches that this completes, and of those that are gone.
//
// A nil error means that each outcome is stored, was stored before, or belongs to a
// batch that is gone. Recording an outcome twice has the effect of recording it once.
// A receipt that is not valid is an error; the others are recorded all the same.
func (s *Store) RecordOutcomes(ctx context.Context, receipts []tasks.Receipt) (completed, gone []string, err error) {
	var ids []string
	args := make(map[string][]any) // by the batch
	var failed error
	for _, r := range receipts {
		row, err := recordArgs(r)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		if args[r.Batch] == nil {
			ids = append(ids, r.Batch)
			args[r.Batch] = []any{nameReservation.Milliseconds()}
		}
		args[r.Batch] = append(args[r.Batch], row...)
	}
	for _, id := range ids {
		n, err := recordCmd.Run(ctx, s.rdb, keysOf(id).ledger(), args[id]...).Int()
		switch {
		case err != nil:
			failed = errors.Join(failed, fmt.Errorf("batch %s: record outcomes: %w", id, err))
		case n < 0:
			gone = append(gone, id)
		case n == 1:
			completed = append(completed, id)
		}
	}
	return completed, gone, failed
}

// recordArgs returns the arguments of recordCmd for one receipt.
func recordArgs(r tasks.Receipt) ([]any, error) {
	state, err := stateOf(r.Outcome)
	if err != nil {
		return nil, err
	}
	if err := tasks.ValidateBatchID(r.Batch); err != nil {
		return nil, err
	}
	if r.Index < 0 || r.Index > tasks.MaxIndex {
		return nil, fmt.Errorf("batch %s: the index is %d; want 0 to %d", r.Batch, r.Index, tasks.MaxIndex)
	}
	device := ""
	if r.Device != nil {
		text, err := json.Marshal(r.Device)
		if err != nil {
			return nil, fmt.Errorf("batch %s: encode the device: %w", r.Batch, err)
		}
		device = string(text)
	}
	return []any{
		r.Index, uint8(state), string(r.Kind), r.UserID, r.Target, string(r.Outcome), string(r.Reason), strconv.Itoa(r.Attempts), device, flag(r.Again), userindex.Fingerprint(r.UserID),
	}, nil
}
