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
// "lost" if not every item has a state, else "ok".
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
completeIfDone(ARGV[3])
return "ok"
`)

// CloseInput records that the input has ended after this number of items, all of
// which have their mark.
func (s *Store) CloseInput(ctx context.Context, id string, items int64) error {
	word, err := closeCmd.Run(ctx, s.rdb, keysOf(id).ledger(), items, ChunkSize, nameReservation.Milliseconds()).Text()
	if err != nil {
		return fmt.Errorf("batch %s: close the input: %w", id, err)
	}
	switch word {
	case "gone":
		return &NotFoundError{ID: id}
	case "lost":
		return &DataLossError{ID: id}
	case "shorter":
		return &InputError{ID: id, First: items + 1, Problem: "this one is shorter"}
	}
	return nil
}

// abandonCmd closes the input of a batch whose producer will not go on.
//
// KEYS -> meta, states, receipts, revised, slots, used
// --
// ARGV[1] -> ms for which the name stays reserved after the batch has expired
//
// Returns 0 if there is no such batch, else 1.
var abandonCmd = redis.NewScript(ledgerLua + `
if redis.call("EXISTS", KEYS[1]) == 0 then
	return 0
end
if redis.call("HEXISTS", KEYS[1], "sealed") == 0 then
	local m = redis.call("HMGET", KEYS[1], "total", "children")
	redis.call("HSET", KEYS[1], "sealed", m[1] - (m[2] or 0), "abandoned", 1)
	completeIfDone(ARGV[1])
end
return 1
`)

// Abandon closes the input of a batch as it is, because its producer has died and
// nobody can read the input again. The batch is complete once nothing is queued.
// Items that were under way when the producer died may be in asynq all the same.
// They get their receipts, perhaps after the batch was reported as complete.
func (s *Store) Abandon(ctx context.Context, id string) error {
	exists, err := abandonCmd.Run(ctx, s.rdb, keysOf(id).ledger(), nameReservation.Milliseconds()).Bool()
	if err == nil && !exists {
		return &NotFoundError{ID: id}
	}
	if err != nil {
		return fmt.Errorf("batch %s: abandon: %w", id, err)
	}
	return nil
}
