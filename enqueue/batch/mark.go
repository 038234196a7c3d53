package batch

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// markCmd gives states to indexes that have none, unless Redis has lost
// something since the chunk was claimed.
//
// KEYS -> meta, states, receipts, revised, slots, users, used, and the fence's tokens
// --
// ARGV[1] -> number of the chunk; -1 without a fence
// ARGV[2] -> index of its first item
// ARGV[3..] -> index and state, in turn
//
// Returns how many indexes had no state. Returns -1 if there is no such batch, and
// -2 if the chunk's slot or a token is missing.
var markCmd = redis.NewScript(ledgerLua + slotLua + `
if redis.call("EXISTS", KEYS[1]) == 0 then
	return -1
end
local n = tonumber(ARGV[1])
if n >= 0 then
	local slot = redis.call("GETRANGE", KEYS[5], n * 16, n * 16 + 15)
	local whole = #slot == 16 and readSlot(slot) == tonumber(ARGV[2])
	for i = 8, #KEYS do
		whole = redis.call("DEL", KEYS[i]) == 1 and whole
	end
	if not whole then
		return -2
	end
end
preload(3, 2)
for i = 3, #ARGV, 2 do
	local index = tonumber(ARGV[i])
	if stateAt(index) == ABSENT then
		setState(index, ABSENT, tonumber(ARGV[i + 1]))
	end
end
save()
return added
`)

// Mark is a state for an index of the input.
type Mark struct {
	Index int64
	State State // Queued, Duplicate or Rejected
}

// Fence proves that Redis has lost nothing between the tasks of a chunk and their
// marks. After a failure Redis has lost the latest writes, and nothing before them.
// A token is written after the tasks. So as long as the token exists, the tasks
// exist, too.
type Fence struct {
	id        string
	chunk     Chunk
	tokenKeys []string
}

// tokenTTL removes tokens that nobody checks, because their producer has died.
const tokenTTL = time.Hour

// NewFence returns a fence for the tasks of a chunk. It has no token yet.
func NewFence(id string, c Chunk) *Fence { return &Fence{id: id, chunk: c} }

// Write writes another token behind the commands that the pipeline has so far.
// The caller adds its key to the fence if the command succeeds.
func (f *Fence) Write(ctx context.Context, pipe redis.Pipeliner) (key string, written *redis.StatusCmd) {
	key = prefixOf(f.id) + "token:" + uuid.NewString()
	return key, pipe.Set(ctx, key, "", tokenTTL)
}

// Add makes a token that was written a part of the fence.
func (f *Fence) Add(key string) { f.tokenKeys = append(f.tokenKeys, key) }

// Mark gives states to those indexes that have none. It must be called after
// asynq has stored the tasks. A *DataLossError means that asynq may not have them
// any more, and that nothing was marked. A fence can be used once; nil means that
// losses are not checked for.
func (s *Store) Mark(ctx context.Context, id string, marks []Mark, fence *Fence) error {
	if len(marks) == 0 {
		return nil
	}
	keys, args := keysOf(id).ledger(), make([]any, 0, 2+2*len(marks))
	if fence == nil {
		args = append(args, -1, 0)
	} else {
		keys, args = append(keys, fence.tokenKeys...), append(args, fence.chunk.number, fence.chunk.first)
	}
	for _, m := range marks {
		// In the middle of the script an error would leave states without counters.
		if m.Index < 0 || m.Index > tasks.MaxIndex {
			return fmt.Errorf("batch %s: the index is %d; want 0 to %d", id, m.Index, tasks.MaxIndex)
		}
		if m.State != Queued && m.State != Duplicate && m.State != Rejected {
			return fmt.Errorf("batch %s: cannot mark an item as %s; want queued, duplicate or rejected", id, m.State)
		}
		args = append(args, m.Index, uint8(m.State))
	}
	n, err := markCmd.Run(ctx, s.rdb, keys, args...).Int64()
	switch {
	case err != nil:
		return fmt.Errorf("batch %s: mark: %w", id, err)
	case n == -1:
		return &NotFoundError{ID: id}
	case n == -2:
		return &DataLossError{ID: id}
	}
	return nil
}
