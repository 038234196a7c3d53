package batch

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// ChunkSize is the number of items that are claimed together. It is even, so
// that their states fill whole bytes.
const ChunkSize = 512

// Digest is the rolling digest of an input: of all items up to some point.
type Digest [10]byte

// RollingDigest is a rolling digest on its way through an input. The zero value is at
// its beginning.
type RollingDigest struct{ sum [sha256.Size]byte }

// Task takes in an item that is a task.
func (r *RollingDigest) Task(t tasks.Task) {
	r.item("t" + string(t.Kind()) + "\x00" + t.User() + "\x00" + t.Target())
}

// Reject takes in an item that is none.
func (r *RollingDigest) Reject(text string) { r.item("r" + text) }

// item chains: the state before has a fixed size, so no two inputs are written
// alike.
func (r *RollingDigest) item(text string) {
	r.sum = sha256.Sum256(append(r.sum[:], text...))
}

// Digest returns the digest so far.
func (r *RollingDigest) Digest() Digest { return Digest(r.sum[:len(Digest{})]) }

// InputError means that the input is not the one that the batch was begun with.
// Nothing of it was enqueued from the chunk on in which it differs.
type InputError struct {
	ID string
	// First and Last are the items, counted from 1, among which the first
	// difference lies; Last is 0 if it is not known.
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
	return "resume it with the input that it was begun with, or put this one into a batch of its own"
}

// DataLossError means that Redis has lost a part of the batch that it had
// acknowledged: its primary has failed before a replica had it, or it has
// restarted from a snapshot.
type DataLossError struct{ ID string }

// Error implements error.
func (e *DataLossError) Error() string {
	return fmt.Sprintf("Redis has lost a part of batch %s that it had acknowledged, in a failover or a restart", e.ID)
}

// Hint says what to do about it.
func (e *DataLossError) Hint() string {
	return "the same command again enqueues what is missing; persistence and --min-replicas make it rarer"
}

// FullError means that a batch has no room for more.
type FullError struct{ ID string }

// Error implements error.
func (e *FullError) Error() string {
	return fmt.Sprintf("batch %s is full: it has room for %d tasks; want several batches", e.ID, tasks.MaxIndex+1)
}

// slotLua reads and writes slots: the index of a chunk's first item in four
// bytes, the number of its items in two, and the digest after them in ten.
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

-- The index of the first item, the number of items and the digest.
local function readSlot(slot)
	return number(string.sub(slot, 1, 4)), number(string.sub(slot, 5, 6)), string.sub(slot, 7, 16)
end

local function writeSlot(start, known, digest)
	return text(start, 4) .. text(known, 2) .. digest
end
`

// claimCmd claims a chunk of the input, or as much of it as is there yet.
//
// KEYS[1] -> meta
// KEYS[2] -> states
// KEYS[3] -> slots
// --
// ARGV[1] -> number of the chunk, from 0
// ARGV[2] -> items of it that are known
// ARGV[3] -> the digest after them
// ARGV[4] -> items that were known before, and were checked by the caller; 0
// ARGV[5] -> the digest after these; ""
// ARGV[6] -> items in a full chunk
// ARGV[7] -> indexes that a batch may have
//
// Returns a word; the items that the ledger knows of, their digest; the index of
// the chunk's first item; and the states from there on. The word is "ok";
// "look" if there are more, fewer or other items known, which the caller must
// check first; or "gone", "lost" (the chunk before it), "sealed" or "full", and
// then it is all.
var claimCmd = redis.NewScript(slotLua + `
if redis.call("EXISTS", KEYS[1]) == 0 then
	return {"gone"}
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
		return {"look", known, digest}
	end
	local sealed = redis.call("HGET", KEYS[1], "sealed")
	if sealed and ARGV[1] * ARGV[6] + ARGV[2] > tonumber(sealed) then
		return {"sealed"}
	end
	if known == 0 then
		start = redis.call("HGET", KEYS[1], "next")
		start = start + start % 2 -- on a whole byte
		if start + ARGV[6] > tonumber(ARGV[7]) then
			return {"full"}
		end
		redis.call("HSET", KEYS[1], "next", start + ARGV[6])
	end
	redis.call("SETRANGE", KEYS[3], at, writeSlot(start, tonumber(ARGV[2]), ARGV[3]))
end
return {"ok", tonumber(ARGV[2]), ARGV[3], start, redis.call("GETRANGE", KEYS[2], start / 2, start / 2 + math.floor((ARGV[2] + 1) / 2) - 1)}
`)

// Chunk is a claimed part of the input.
type Chunk struct {
	number int64
	first  int64
	states string
}

// Index returns the index of the chunk's i'th item.
func (c Chunk) Index(i int) int64 { return c.first + int64(i) }

// State returns the state of the chunk's i'th item when it was claimed.
func (c Chunk) State(i int) State { return stateAt(c.states, int64(i)) }

// Claim claims the n'th chunk of the input for as many items as there are
// digests: after each of them the rolling digest of the whole input so far. A
// chunk that grows may be claimed again with more. more is the number of items
// that are needed at least: the ledger knows of so many, and whether they are the
// same can be said only when all are there.
func (s *Store) Claim(ctx context.Context, id string, n int64, digests []Digest) (c Chunk, more int, err error) {
	if n < 0 || len(digests) == 0 || len(digests) > ChunkSize {
		return Chunk{}, 0, fmt.Errorf("batch %s: claim: chunk %d cannot have %d items", id, n, len(digests))
	}
	k := keysOf(id)
	known, before := 0, ""
	const tries = 5 // each further one means that another producer is at the same chunk
	for range tries {
		last := digests[len(digests)-1]
		reply, err := claimCmd.Run(ctx, s.rdb, []string{k.meta, k.states, k.slots},
			n, len(digests), last[:], known, before, ChunkSize, tasks.MaxIndex+1).Slice()
		if err != nil {
			return Chunk{}, 0, fmt.Errorf("batch %s: claim: %w", id, err)
		}
		switch word, _ := reply[0].(string); {
		case word == "gone":
			return Chunk{}, 0, &NotFoundError{ID: id}
		case word == "lost":
			return Chunk{}, 0, &DataLossError{ID: id}
		case word == "full":
			return Chunk{}, 0, &FullError{ID: id}
		case word == "sealed":
			return Chunk{}, 0, &InputError{ID: id, First: n*ChunkSize + 1, Problem: "this one is longer"}
		case word == "ok" && len(reply) == 5:
			c.number = n
			c.first, _ = reply[3].(int64)
			c.states, _ = reply[4].(string)
			return c, 0, nil
		case word != "look" || len(reply) != 3:
			return Chunk{}, 0, fmt.Errorf("batch %s: claim: cannot read %v", id, reply)
		}
		there, _ := reply[1].(int64)
		before, _ = reply[2].(string)
		switch known = int(there); {
		case known == 0: // the batch was made again in between
			continue
		case known > len(digests):
			return Chunk{}, known, nil
		}
		if same := digests[known-1]; before != string(same[:]) {
			first := n*ChunkSize + 1
			return Chunk{}, 0, &InputError{ID: id, First: first, Last: first + there - 1, Problem: fmt.Sprintf("the first difference is among the items %d to %d", first, first+there-1)}
		}
	}
	return Chunk{}, 0, fmt.Errorf("batch %s: claim: another producer is at it", id)
}

// markCmd gives states to what has none, provided that Redis has lost nothing
// since.
//
// KEYS -> meta, states, receipts, revised, slots, used, and the proof's tokens
// --
// ARGV[1] -> number of the chunk; -1 if there is no proof
// ARGV[2] -> index of its first item
// ARGV[3..] -> index and state, in turn
//
// Returns how many had none; -1 if there is no such batch, -2 if the chunk or a
// token is not there.
var markCmd = redis.NewScript(ledgerLua + slotLua + `
if redis.call("EXISTS", KEYS[1]) == 0 then
	return -1
end
local n = tonumber(ARGV[1])
if n >= 0 then
	local slot = redis.call("GETRANGE", KEYS[5], n * 16, n * 16 + 15)
	local whole = #slot == 16 and readSlot(slot) == tonumber(ARGV[2])
	for i = 7, #KEYS do
		whole = redis.call("DEL", KEYS[i]) == 1 and whole
	end
	if not whole then
		return -2
	end
end
local first, last = tonumber(ARGV[3]), tonumber(ARGV[3])
for i = 3, #ARGV, 2 do
	first, last = math.min(first, tonumber(ARGV[i])), math.max(last, tonumber(ARGV[i]))
end
read(first, last)
for i = 3, #ARGV, 2 do
	local index = tonumber(ARGV[i])
	if get(index) == 0 then
		put(index, 0, tonumber(ARGV[i + 1]))
	end
end
balance()
return added
`)

// Mark is a state for an index of the input.
type Mark struct {
	Index int64
	State State // Queued, Duplicate or Rejected
}

// Fence shows that Redis has lost nothing between a chunk's tasks and its marks.
// What takes over after a failure knows a beginning of what was written, and no
// more: so a token that was written behind tasks proves, as long as it is there,
// that they are there too.
type Fence struct {
	id     string
	chunk  Chunk
	tokens []string // their keys
}

// tokenLife is for those that nobody asks for, because their producer has died.
const tokenLife = time.Hour

// NewFence returns a proof for the tasks of this chunk, without a token so far.
func NewFence(id string, c Chunk) *Fence { return &Fence{id: id, chunk: c} }

// Write writes another token behind what a pipeline has. Only if that succeeds it
// is to be added.
func (p *Fence) Write(ctx context.Context, pipe redis.Pipeliner) (key string, written *redis.StatusCmd) {
	key = prefixOf(p.id) + "token:" + uuid.NewString()
	return key, pipe.Set(ctx, key, "", tokenLife)
}

// Add makes a token that was written a part of the proof.
func (p *Fence) Add(key string) { p.tokens = append(p.tokens, key) }

// Mark gives states to those indexes that have none. It is called after asynq
// has the tasks. A *LostError means that it may not have them any more, and that
// nothing was marked; the proof, if there is one, is used up by then.
func (s *Store) Mark(ctx context.Context, id string, marks []Mark, proof *Fence) error {
	if len(marks) == 0 {
		return nil
	}
	keys, args := keysOf(id).ledger(), make([]any, 0, 2+2*len(marks))
	if proof == nil {
		args = append(args, -1, 0)
	} else {
		keys, args = append(keys, proof.tokens...), append(args, proof.chunk.number, proof.chunk.first)
	}
	for _, m := range marks {
		// In the middle of the script an error would part states from counters.
		if m.Index < 0 || m.Index > tasks.MaxIndex {
			return fmt.Errorf("batch %s: there is no index %d", id, m.Index)
		}
		if m.State != Queued && m.State != Duplicate && m.State != Rejected {
			return fmt.Errorf("batch %s: %s is no mark", id, m.State)
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
