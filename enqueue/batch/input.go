package batch

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// ChunkSize is the number of items that are claimed together. It is even, so
// that their states fill whole bytes.
const ChunkSize = 512

// Digest is the rolling digest of an input: of all its items up to some point.
type Digest [10]byte

// RollingDigest computes the rolling digest of an input, item by item. The zero
// value stands at the beginning of the input.
type RollingDigest struct{ sum [sha256.Size]byte }

// AddTask adds an item that is a task.
func (r *RollingDigest) AddTask(t tasks.Task) {
	r.add("t" + string(t.Kind()) + "\x00" + t.User() + "\x00" + t.Target())
}

// AddRejected adds an item that is not a task.
func (r *RollingDigest) AddRejected(text string) { r.add("r" + text) }

// add hashes the sum so far and the next item. The sum has a fixed size, so two
// different inputs never feed the same bytes to the hash.
func (r *RollingDigest) add(text string) {
	r.sum = sha256.Sum256(append(r.sum[:], text...))
}

// Digest returns the digest of all items so far.
func (r *RollingDigest) Digest() Digest { return Digest(r.sum[:len(Digest{})]) }

// InputError means that the input is not the one with which the batch was begun.
// Nothing was enqueued of the chunk in which it differs, nor of later ones.
type InputError struct {
	ID string
	// First and Last are items, counted from 1. The first difference is one of
	// them or lies between them. Last is 0 if it is not known.
	First, Last int64
	// Problem says what differs.
	Problem string
}

// Error implements error.
func (e *InputError) Error() string {
	return fmt.Sprintf("batch %s was begun with another input: %s", e.ID, e.Problem)
}

// Hint says what to do about it.
func (e *InputError) Hint() string {
	return "resume the batch with the input that it was begun with, or put this input into a batch of its own"
}

// DataLossError means that Redis has lost tasks that it had acknowledged: its primary
// has failed before a replica had them, or Redis has restarted from a snapshot.
type DataLossError struct {
	// ID is the batch's ID. It is empty if the tasks are in no batch.
	ID string
}

// Error implements error.
func (e *DataLossError) Error() string {
	lost := "tasks"
	if e.ID != "" {
		lost = "a part of batch " + e.ID
	}
	return fmt.Sprintf("Redis has lost %s that it had acknowledged, in a failover or a restart", lost)
}

// Hint says what to do about it.
func (e *DataLossError) Hint() string {
	return "run the same command again to enqueue what is missing: what is queued is skipped; persistence and --min-replicas make such a loss rarer"
}

// FullError means that a batch has no room for more tasks.
type FullError struct{ ID string }

// Error implements error.
func (e *FullError) Error() string {
	return fmt.Sprintf("batch %s is full: it has room for %d tasks; want several batches", e.ID, tasks.MaxIndex+1)
}

// slotLua reads and writes slots. A slot holds the index of a chunk's first item
// in four bytes, the number of its known items in two, and the digest after these
// items in ten.
const slotLua = `
local function number(text)
	local n = 0
	for i = 1, #text do
		n = n * 256 + string.byte(text, i)
	end
	return n
end

local function text(n, size)
	local out = ""
	for _ = 1, size do
		out = string.char(n % 256) .. out
		n = math.floor(n / 256)
	end
	return out
end

-- Returns the index of the first item, the number of known items and the digest.
local function readSlot(slot)
	return number(string.sub(slot, 1, 4)), number(string.sub(slot, 5, 6)), string.sub(slot, 7, 16)
end

local function writeSlot(start, known, digest)
	return text(start, 4) .. text(known, 2) .. digest
end
`

// claimCmd claims a chunk of the input, or the items of it that were read so far.
//
// KEYS[1] -> meta
// KEYS[2] -> states
// KEYS[3] -> slots
// --
// ARGV[1] -> number of the chunk, from 0
// ARGV[2] -> number of its items that the caller has read
// ARGV[3] -> the digest after these
// ARGV[4] -> number of known items that the caller has compared before; else 0
// ARGV[5] -> the digest after these; else ""
// ARGV[6] -> number of items in a full chunk
// ARGV[7] -> number of indexes that a batch may have
//
// Returns a word first. "ok" is followed by the index of the chunk's first item and
// the states from there on. "compare" means that more, fewer or other items are
// known, which the caller must compare first; it is followed by their number and
// their digest. "gone", "cancelled", "lost" (the chunk before this one), "sealed" and
// "full" stand alone.
var claimCmd = redis.NewScript(slotLua + `
if redis.call("EXISTS", KEYS[1]) == 0 then
	return {"gone"}
end
if redis.call("HEXISTS", KEYS[1], "cancelled_whole") == 1 then
	return {"cancelled"}
end
local at = ARGV[1] * 16
if redis.call("STRLEN", KEYS[3]) < at then
	return {"lost"}
end
local slot = redis.call("GETRANGE", KEYS[3], at, at + 15)
local start, known, digest = 0, 0, ""
if #slot == 16 then
	start, known, digest = readSlot(slot)
end
if not (known == tonumber(ARGV[2]) and digest == ARGV[3]) then
	if known ~= tonumber(ARGV[4]) or known > 0 and digest ~= ARGV[5] or known > tonumber(ARGV[2]) then
		return {"compare", known, digest}
	end
	local sealed = redis.call("HGET", KEYS[1], "sealed")
	if sealed and ARGV[1] * ARGV[6] + ARGV[2] > tonumber(sealed) then
		return {"sealed"}
	end
	if known == 0 then
		start = redis.call("HGET", KEYS[1], "next")
		start = start + start % 2 -- the states of a chunk begin with a whole byte
		if start + ARGV[6] > tonumber(ARGV[7]) then
			return {"full"}
		end
		redis.call("HSET", KEYS[1], "next", start + ARGV[6])
	end
	redis.call("SETRANGE", KEYS[3], at, writeSlot(start, tonumber(ARGV[2]), ARGV[3]))
end
return {"ok", start, redis.call("GETRANGE", KEYS[2], start / 2, start / 2 + math.floor((ARGV[2] + 1) / 2) - 1)}
`)

// Chunk is a part of the input. It is claimed if Need is 0.
type Chunk struct {
	// Need is how many items of the chunk the ledger knows. It can compare them with
	// the input only when the caller has read as many.
	Need int

	number int64
	first  int64  // index of its first item
	states string // of its items, when it was claimed
}

// Index returns the index of the chunk's i'th item.
func (c Chunk) Index(i int) int64 { return c.first + int64(i) }

// State returns the state that the chunk's i'th item had when it was claimed. A
// chunk begins with an even index, and Redis puts even indexes into the upper half
// of a byte.
func (c Chunk) State(i int) State {
	if i/2 >= len(c.states) {
		return Absent
	}
	b := c.states[i/2]
	if i%2 == 0 {
		return State(b >> 4)
	}
	return State(b & 0x0f)
}

// Reread returns a chunk that was claimed with the states that its items have now.
func (s *Store) Reread(ctx context.Context, id string, c Chunk) (Chunk, error) {
	from := c.first / 2
	states, err := s.rdb.GetRange(ctx, keysOf(id).states, from, from+int64(len(c.states))-1).Result()
	if err != nil {
		return c, fmt.Errorf("batch %s: read the states of a chunk: %w", id, err)
	}
	c.states = states
	return c, nil
}

// ClaimChunk claims the n'th chunk of the input. digests holds the rolling digest of
// the whole input after each item of the chunk that was read so far. A chunk may
// be claimed again when more of its items were read.
func (s *Store) ClaimChunk(ctx context.Context, id string, n int64, digests []Digest) (Chunk, error) {
	if n < 0 || len(digests) == 0 || len(digests) > ChunkSize {
		return Chunk{}, fmt.Errorf("batch %s: claim chunk %d with %d items; want 1 to %d items of a chunk from 0 on", id, n, len(digests), ChunkSize)
	}
	k := keysOf(id)
	known, knownDigest := int64(0), ""
	const tries = 5 // another try is needed only if another producer claims the same chunk
	for range tries {
		last := digests[len(digests)-1]
		reply, err := claimCmd.Run(ctx, s.rdb, []string{k.meta, k.states, k.slots},
			n, len(digests), last[:], known, knownDigest, ChunkSize, tasks.MaxIndex+1).Slice()
		if err != nil {
			return Chunk{}, fmt.Errorf("batch %s: claim: %w", id, err)
		}
		switch word, _ := reply[0].(string); {
		case word == "gone":
			return Chunk{}, &NotFoundError{ID: id}
		case word == "cancelled":
			return Chunk{}, &CancelledError{ID: id}
		case word == "lost":
			return Chunk{}, &DataLossError{ID: id}
		case word == "full":
			return Chunk{}, &FullError{ID: id}
		case word == "sealed":
			return Chunk{}, &InputError{ID: id, First: n*ChunkSize + 1, Problem: "this one is longer"}
		case word == "ok" && len(reply) == 3:
			c := Chunk{number: n}
			c.first, _ = reply[1].(int64)
			c.states, _ = reply[2].(string)
			return c, nil
		case word != "compare" || len(reply) != 3:
			return Chunk{}, fmt.Errorf("batch %s: claim: unexpected reply %v", id, reply)
		}
		known, _ = reply[1].(int64)
		knownDigest, _ = reply[2].(string)
		switch {
		case known == 0: // the batch was deleted and made again meanwhile
			continue
		case known > int64(len(digests)):
			return Chunk{Need: int(known)}, nil
		}
		if same := digests[known-1]; knownDigest != string(same[:]) {
			first := n*ChunkSize + 1
			end := first + known - 1
			return Chunk{}, &InputError{ID: id, First: first, Last: end, Problem: fmt.Sprintf("the first difference is among the items %d to %d", first, end)}
		}
	}
	return Chunk{}, fmt.Errorf("batch %s: claim: another producer claims the same chunk", id)
}

// closeCmd records that the whole input is in the batch.
//
// KEYS -> meta, states, receipts, revised, slots, users, used
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
// which have their mark. The batch is listed as open before, so that its completion
// is reported even if the process dies in between.
func (s *Store) CloseInput(ctx context.Context, id string, items int64) error {
	if err := s.relistOpen(ctx, id); err != nil {
		return err
	}
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
// KEYS -> meta, states, receipts, revised, slots, users, used
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
	if err := s.relistOpen(ctx, id); err != nil {
		return err
	}
	exists, err := abandonCmd.Run(ctx, s.rdb, keysOf(id).ledger(), nameReservation.Milliseconds()).Bool()
	if err == nil && !exists {
		return &NotFoundError{ID: id}
	}
	if err != nil {
		return fmt.Errorf("batch %s: abandon: %w", id, err)
	}
	return nil
}
