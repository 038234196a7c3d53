package batch

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// closeCmd records that the whole input is in the batch.
//
// KEYS -> meta, states, receipts, revised, slots, used
// --
// ARGV[1] -> number of items in the input
// ARGV[2] -> number of items in a full chunk
// ARGV[3] -> ms for which the name stays reserved after the batch has expired
//
// Returns "gone" if there is no such batch, "shorter" if more items are known,
// "lost" if not every item has a state, "done" if this completes the batch, else
// "ok".
var closeCmd = redis.NewScript(ledgerLua + slotLua + `
if redis.call("EXISTS", KEYS[1]) == 0 then
	return "gone"
end
local chunks = redis.call("STRLEN", KEYS[5]) / 16
local items = 0
if chunks > 0 then
	local slot = redis.call("GETRANGE", KEYS[5], (chunks - 1) * 16, -1)
	local _, known = readSlot(slot)
	items = (chunks - 1) * ARGV[2] + known
end
if items > tonumber(ARGV[1]) then
	return "shorter"
end
-- The total counts every state, those of the input and those of children.
local m = redis.call("HMGET", KEYS[1], "total", "children")
if items < tonumber(ARGV[1]) or m[1] - (m[2] or 0) ~= items then
	return "lost"
end
redis.call("HSETNX", KEYS[1], "sealed", ARGV[1])
if completeIfDone(ARGV[3]) == 1 then
	return "done"
end
return "ok"
`)

// CloseInput records that the input has ended after this number of items, all of
// which have their mark. It reports whether this completes the batch.
func (s *Store) CloseInput(ctx context.Context, id string, items int64) (completed bool, err error) {
	word, err := closeCmd.Run(ctx, s.rdb, keysOf(id).ledger(), items, ChunkSize, nameReservation.Milliseconds()).Text()
	if err != nil {
		return false, fmt.Errorf("batch %s: close the input: %w", id, err)
	}
	switch word {
	case "gone":
		return false, &NotFoundError{ID: id}
	case "lost":
		return false, &DataLossError{ID: id}
	case "shorter":
		return false, &InputError{ID: id, First: items + 1, Problem: "this one is shorter"}
	default:
		return word == "done", nil
	}
}

// abandonCmd closes the input of a batch whose producer will not go on.
//
// KEYS -> meta, states, receipts, revised, slots, used
// --
// ARGV[1] -> ms for which the name stays reserved after the batch has expired
//
// Returns "gone" if there is no such batch, "done" if this completes the batch,
// else "ok".
var abandonCmd = redis.NewScript(ledgerLua + `
if redis.call("EXISTS", KEYS[1]) == 0 then
	return "gone"
end
if redis.call("HEXISTS", KEYS[1], "sealed") == 1 then
	return "ok"
end
local m = redis.call("HMGET", KEYS[1], "total", "children")
redis.call("HSET", KEYS[1], "sealed", m[1] - (m[2] or 0), "abandoned", 1)
if completeIfDone(ARGV[1]) == 1 then
	return "done"
end
return "ok"
`)

// Abandon closes the input of a batch as it is, because its producer has died and
// nobody can read the input again. The batch is complete once nothing is queued.
// Items that were under way when the producer died may be in asynq all the same.
// They get their receipts, perhaps after the batch was reported as complete.
// Abandon reports whether it completes the batch.
func (s *Store) Abandon(ctx context.Context, id string) (completed bool, err error) {
	word, err := abandonCmd.Run(ctx, s.rdb, keysOf(id).ledger(), nameReservation.Milliseconds()).Text()
	if err != nil {
		return false, fmt.Errorf("batch %s: abandon: %w", id, err)
	}
	if word == "gone" {
		return false, &NotFoundError{ID: id}
	}
	return word == "done", nil
}
