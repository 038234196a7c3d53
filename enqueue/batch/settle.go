package batch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// settleCmd gives outcomes to tasks, and writes their receipts. What has one
// already keeps it, unless it was dead or discarded; what was replayed may be dead
// again. An index that was not given
// out yet is of an earlier batch of that name, or made up: it would take the place
// of what is to come, and so it is passed over.
//
// KEYS -> meta, states, receipts, revised, slots, used
// --
// ARGV -> of each receipt: index, state, kind, user, target, outcome, reason,
// attempts, device, and 1 if it is dead again, else 0
//
// Returns the number of outcomes that were news, and 1 if they complete the
// batch, else 0; -1 and 0 if there is no such batch.
var settleCmd = redis.NewScript(ledgerLua + `
local m = redis.call("HMGET", KEYS[1], "next", "with_receipts")
if not m[1] then
	return {-1, 0}
end
local news, next = 0, tonumber(m[1])
local first, last = tonumber(ARGV[1]), tonumber(ARGV[1])
for i = 1, #ARGV, 10 do
	first, last = math.min(first, tonumber(ARGV[i])), math.max(last, tonumber(ARGV[i]))
end
read(first, last)
for i = 1, #ARGV, 10 do
	local index, new = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
	local old = index < next and get(index)
	local again = old == 5 and new == 5 and ARGV[i + 9] == "1"
	-- absent and queued, dead and discarded
	if old and (old <= 1 or (old == 5 or old == 6) and old ~= new or again) then
		put(index, old, new)
		news = news + 1
		if m[2] == "1" then
			local id = redis.call("XADD", KEYS[3], "*", "i", index, "k", ARGV[i + 2], "u", ARGV[i + 3], "t", ARGV[i + 4],
				"o", ARGV[i + 5], "r", ARGV[i + 6], "a", ARGV[i + 7], "d", ARGV[i + 8])
			if old > 1 then
				redis.call("HSET", KEYS[4], index, id)
				redis.call("HINCRBY", KEYS[1], "revisions", 1)
			end
		end
	end
end
balance()
return {news, complete()}
`)

// RecordOutcomes notes what became of tasks of batches, and returns the batches that are
// complete by it. It returns nil once all is stored, or was stored before, or
// belongs to a batch that is not there any more. To settle the same outcome
// twice is to settle it once. A receipt that is none is an error, and holds up no
// other.
func (s *Store) RecordOutcomes(ctx context.Context, receipts []tasks.Receipt) (completed []string, err error) {
	args := make(map[string][]any)
	var order []string
	var failed error
	for _, r := range receipts {
		row, err := settleRow(r)
		if err != nil { // it holds up no other
			failed = errors.Join(failed, err)
			continue
		}
		if args[r.Batch] == nil {
			order = append(order, r.Batch)
		}
		args[r.Batch] = append(args[r.Batch], row...)
	}
	for _, id := range order {
		reply, err := settleCmd.Run(ctx, s.rdb, keysOf(id).ledger(), args[id]...).Int64Slice()
		if err == nil && len(reply) != 2 {
			err = fmt.Errorf("cannot read %v", reply)
		}
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("batch %s: settle: %w", id, err))
			continue
		}
		if reply[1] == 1 {
			completed = append(completed, id)
		}
	}
	return completed, failed
}

func settleRow(r tasks.Receipt) ([]any, error) {
	state, err := stateOf(r.Outcome)
	if err != nil {
		return nil, err
	}
	if err := tasks.ValidateBatchID(r.Batch); err != nil {
		return nil, err
	}
	if r.Index < 0 || r.Index > tasks.MaxIndex {
		return nil, fmt.Errorf("batch %s: there is no index %d", r.Batch, r.Index)
	}
	device := ""
	if r.Device != nil {
		text, err := json.Marshal(r.Device)
		if err != nil {
			return nil, fmt.Errorf("batch %s: write the device: %w", r.Batch, err)
		}
		device = string(text)
	}
	return []any{
		r.Index, uint8(state), string(r.Kind), r.UserID, r.Target, string(r.Outcome), string(r.Reason), strconv.Itoa(r.Attempts), device, flag(r.Again),
	}, nil
}
