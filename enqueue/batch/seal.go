package batch

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// sealCmd notes that the whole input is in the batch.
//
// KEYS -> meta, states, receipts, revised, slots, used
// --
// ARGV[1] -> items of the input
// ARGV[2] -> items in a full chunk
//
// Returns "gone", "shorter", "lost" if not every item has a state, "done" if that
// completes the batch, or "ok".
var sealCmd = redis.NewScript(ledgerLua + slotLua + `
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
-- Every state is counted in the total, those of the input and of children.
local m = redis.call("HMGET", KEYS[1], "total", "children")
if items < tonumber(ARGV[1]) or m[1] - (m[2] or 0) ~= items then
	return "lost"
end
redis.call("HSETNX", KEYS[1], "sealed", ARGV[1])
if complete() == 1 then
	return "done"
end
return "ok"
`)

// CloseInput notes that the input has ended after so many items, all of which have
// their mark. It reports whether that completes the batch.
func (s *Store) CloseInput(ctx context.Context, id string, items int64) (completed bool, err error) {
	word, err := sealCmd.Run(ctx, s.rdb, keysOf(id).ledger(), items, ChunkSize).Text()
	if err != nil {
		return false, fmt.Errorf("batch %s: seal: %w", id, err)
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

// abandonCmd seals a batch whose input nobody will go on with.
//
// KEYS -> meta, states, receipts, revised, slots, used
// --
//
// Returns "gone", "ok", or "done" if that completes the batch.
var abandonCmd = redis.NewScript(ledgerLua + `
if redis.call("EXISTS", KEYS[1]) == 0 then
	return "gone"
end
if redis.call("HEXISTS", KEYS[1], "sealed") == 1 then
	return "ok"
end
local m = redis.call("HMGET", KEYS[1], "total", "children")
redis.call("HSET", KEYS[1], "sealed", m[1] - (m[2] or 0), "abandoned", 1)
if complete() == 1 then
	return "done"
end
return "ok"
`)

// Abandon notes that nobody will go on with the input of a batch whose producer
// has died: it is complete once nothing is queued. Of the items that were under
// way when it died some may be with asynq all the same; they get their receipts,
// maybe after the batch was called complete. It reports whether it is complete by
// this.
func (s *Store) Abandon(ctx context.Context, id string) (completed bool, err error) {
	word, err := abandonCmd.Run(ctx, s.rdb, keysOf(id).ledger()).Text()
	if err != nil {
		return false, fmt.Errorf("batch %s: abandon: %w", id, err)
	}
	if word == "gone" {
		return false, &NotFoundError{ID: id}
	}
	return word == "done", nil
}
