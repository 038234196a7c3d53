package batch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// Store is the ledger of all batches in one Redis. It is safe for concurrent use.
type Store struct {
	rdb redis.UniversalClient
}

// NewStore returns a Store over a client, which stays the caller's to close.
func NewStore(rdb redis.UniversalClient) *Store { return &Store{rdb: rdb} }

// The index of all batches, and of those whose completion was not reported yet.
const (
	allKey  = "kooworker:batches"      // sorted set: batch IDs by the time of creation in ms
	openKey = "kooworker:batches:open" // set of batch IDs
)

// keys are the keys of one batch. A Redis cluster keeps them in one slot because
// of the braces.
type keys struct{ meta, states, slots, receipts, revised, users, used string }

func keysOf(id string) keys {
	prefix := prefixOf(id)
	return keys{prefix + "meta", prefix + "states", prefix + "slots", prefix + "receipts", prefix + "revised", prefix + "users", prefix + "used"}
}

func prefixOf(id string) string { return "kooworker:{batch:" + id + "}:" }

// ledger returns the first KEYS of every script that changes states. All of them
// expire together, except the last one, which outlives them.
func (k keys) ledger() []string {
	return []string{k.meta, k.states, k.receipts, k.revised, k.slots, k.users, k.used}
}

// childrenKey returns the key of the record of a task's children. The identity
// names the parent if it belongs to no batch.
func childrenKey(ref tasks.BatchRef, identity string) string {
	if ref.IsSet() {
		return prefixOf(ref.Batch) + "brood:" + strconv.FormatInt(ref.Index, 10)
	}
	return "kooworker:brood:" + identity
}

// nameReservation is how long the name of a batch that has expired or was deleted
// cannot be used again.
const nameReservation = 90 * 24 * time.Hour

// Spec describes a batch. A batch can be resumed only with the Spec that made it.
type Spec struct {
	// ID names the batch; see tasks.BatchRef. Empty: a new ID is generated, which
	// sorts behind earlier ones.
	ID string
	// NoReceipts: outcomes are counted, but no receipts are written.
	NoReceipts bool
	// NoGuard says whether the tasks are unguarded; see enqueue.NoGuard.
	NoGuard bool
	// Keep is how long the batch is kept after its completion. At least a minute.
	// Default 30 days. Resuming a batch does not change it.
	Keep time.Duration
	// DueBy is when the batch should be complete. Workers go on after it; operators see
	// that the batch is late. Zero: there is no such time, and resuming a batch does not
	// change it.
	DueBy time.Time
	// Lane is the lane in which the tasks of a new batch wait; see Store.Lane. Resuming a
	// batch does not change it.
	Lane tasks.Lane
}

// NotFoundError means that the batch does not exist, or does not exist any more.
type NotFoundError struct{ ID string }

// Error implements error.
func (e *NotFoundError) Error() string {
	return fmt.Sprintf("there is no batch %q", e.ID)
}

// Hint says what to do about it.
func (e *NotFoundError) Hint() string {
	return "batch list shows the batches that exist; a complete batch expires when its time to be kept has passed"
}

// SpecError means that the batch exists, but was made with another Spec.
type SpecError struct {
	ID string
	// Field names the difference: no-receipts or no-guard.
	Field string
	// Was is the field's value in the existing batch, and Is the one asked for.
	Was, Is bool
}

// Error implements error.
func (e *SpecError) Error() string {
	return fmt.Sprintf("batch %s was made with %s=%t and cannot be resumed with %t", e.ID, e.Field, e.Was, e.Is)
}

// NameReservedError means that a batch of this name has existed. Its tasks may
// still be outstanding, or dead and replayed some day, and their outcomes would
// be recorded in the new batch. So the name cannot be used again until 90 days
// after the batch has expired or was deleted.
type NameReservedError struct{ ID string }

// Error implements error.
func (e *NameReservedError) Error() string {
	return fmt.Sprintf("a batch %s has existed and has expired or was deleted; want another ID", e.ID)
}

// openCmd makes a batch, unless it exists.
//
// It also records the time, so that a batch which somebody resumes is not idle.
//
// KEYS[1] -> meta
// KEYS[2] -> used
// --
// ARGV[1] -> ms for which the batch is kept after its completion
// ARGV[2] -> 1 if receipts are to be written, else 0
// ARGV[3] -> 1 if its tasks are unguarded, else 0
// ARGV[4] -> the lane of its tasks
//
// Returns nothing if the name is reserved. Else it returns 1 if the batch was made
// or 0 if it existed, the ms at which it was made, and 1 or 0 for each of: it has
// receipts, it is unguarded, it is complete.
var openCmd = redis.NewScript(`
local made = 0
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call("EXISTS", KEYS[1]) == 0 then
	if redis.call("EXISTS", KEYS[2]) == 1 then
		return {}
	end
	redis.call("HSET", KEYS[1], "v", 1, "created_at", now, "keep", ARGV[1],
		"with_receipts", ARGV[2], "no_guard", ARGV[3], "lane", ARGV[4], "next", 0, "total", 0, "queued", 0)
	made = 1
	redis.call("SET", KEYS[2], "")
end
redis.call("HSET", KEYS[1], "changed_at", now)
local m = redis.call("HMGET", KEYS[1], "created_at", "with_receipts", "no_guard")
return {made, tonumber(m[1]), tonumber(m[2]), tonumber(m[3]), redis.call("HEXISTS", KEYS[1], "completed_at")}
`)

// Open makes a batch, or finds the one that exists. It returns the batch's ID,
// and whether it existed.
//
// The batch is made before it is listed. If the process dies in between, the
// batch is empty and not listed. Opening it again lists it.
func (s *Store) Open(ctx context.Context, spec Spec) (id string, resumed bool, err error) {
	if spec.ID == "" {
		generated, err := uuid.NewV7() // sorts behind earlier ones
		if err != nil {
			return "", false, fmt.Errorf("batch: generate an id: %w", err)
		}
		spec.ID = generated.String()
	}
	if err := tasks.ValidateBatchID(spec.ID); err != nil {
		return "", false, err
	}
	spec.Keep = cmp.Or(spec.Keep, 30*24*time.Hour)
	if spec.Keep < time.Minute {
		return "", false, fmt.Errorf("batch: the time to keep it is %s; want at least 1m", spec.Keep)
	}
	k := keysOf(spec.ID)
	m, err := openCmd.Run(ctx, s.rdb, []string{k.meta, k.used}, spec.Keep.Milliseconds(), flag(!spec.NoReceipts), flag(spec.NoGuard), string(spec.Lane)).Int64Slice()
	if err == nil && len(m) == 0 {
		return "", false, &NameReservedError{ID: spec.ID}
	}
	if err == nil && len(m) != 5 {
		err = fmt.Errorf("the reply has %d values; want 5", len(m))
	}
	if err != nil {
		return "", false, fmt.Errorf("open batch %s: %w", spec.ID, err)
	}
	made, createdAt, noReceipts, noGuard, complete := m[0] == 1, m[1], m[2] == 0, m[3] == 1, m[4] == 1
	if noReceipts != spec.NoReceipts {
		return "", false, &SpecError{ID: spec.ID, Field: "no-receipts", Was: noReceipts, Is: spec.NoReceipts}
	}
	if noGuard != spec.NoGuard {
		return "", false, &SpecError{ID: spec.ID, Field: "no-guard", Was: noGuard, Is: spec.NoGuard}
	}
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.ZAddNX(ctx, allKey, redis.Z{Score: float64(createdAt), Member: spec.ID})
		if !complete { // the completion of a complete batch may have been reported
			p.SAdd(ctx, openKey, spec.ID)
		}
		if !spec.DueBy.IsZero() {
			p.HSet(ctx, k.meta, "due_by", spec.DueBy.UnixMilli())
		}
		return nil
	})
	if err != nil {
		return "", false, fmt.Errorf("list batch %s: %w", spec.ID, err)
	}
	return spec.ID, !made, nil
}

// Lane returns the lane in which the tasks of a batch wait. The tasks of a batch that was
// made by a version without lanes wait where single orders do.
func (s *Store) Lane(ctx context.Context, id string) (tasks.Lane, error) {
	name, err := s.rdb.HGet(ctx, keysOf(id).meta, "lane").Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return "", fmt.Errorf("read the lane of batch %s: %w", id, err)
	}
	lane, ok := tasks.ParseLane(name)
	if !ok {
		return "", fmt.Errorf("batch %s has the lane %q, which this version does not know; want a newer version", id, name)
	}
	return lane, nil
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// NotDoneError means that a batch is not done.
type NotDoneError struct{ Stats tasks.BatchStats }

// Error implements error.
func (e *NotDoneError) Error() string {
	if e.Stats.Queued > 0 {
		return fmt.Sprintf("batch %s is not done: %d of %d tasks are queued", e.Stats.ID, e.Stats.Queued, e.Stats.Total)
	}
	return fmt.Sprintf("batch %s is not done: its input was not read to the end", e.Stats.ID)
}

// Delete removes a batch with its receipts. A batch that is not done is a
// *NotDoneError, unless forced. The tasks of a deleted batch are still carried
// out, but get no receipt: cancel it before; see Store.Cancel.
func (s *Store) Delete(ctx context.Context, id string, force bool) error {
	stats, err := s.Show(ctx, id)
	if err != nil {
		return err
	}
	if !stats.Done && !force {
		return &NotDoneError{Stats: stats}
	}
	k := keysOf(id)
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.PExpire(ctx, k.used, nameReservation)
		p.Unlink(ctx, k.meta, k.states, k.receipts, k.revised, k.slots, k.users)
		return nil
	})
	if err != nil {
		return fmt.Errorf("delete batch %s: %w", id, err)
	}
	_, _, err = s.showAll(ctx, []string{id}) // takes it off the list
	return err
}
