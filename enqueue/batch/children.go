package batch

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// Children is the record of the tasks that a task has enqueued: the unbinds and
// releases of an off-boarding. They are enqueued in rounds, and the record is
// about the latest round.
type Children struct {
	// Round counts from 1; 0 if there was no round yet.
	Round int
	// Since is when the round began, by Redis' clock.
	Since time.Time
	// Enqueued: every child was enqueued at least once.
	Enqueued bool
	// Lane is where they wait.
	Lane tasks.Lane
	// Indexes maps each child to its index in the batch. The index is 0 if the
	// parent belongs to no batch, and the parent's own if the batch is gone.
	Indexes map[Child]int64
}

// Child names one of the tasks about a user.
type Child struct {
	Kind   tasks.Kind
	Target string
}

// field is the name of a child's field in Redis. No kind contains a space.
func (c Child) field() string { return childPrefix + string(c.Kind) + " " + c.Target }

const (
	childrenTTL = 90 * 24 * time.Hour // a dead parent is not replayed later than that
	childPrefix = "c:"
)

// nextRoundCmd records the children of a round, and queues each in the batch, if
// there is one. A round that was recorded before stays as it is. A child that is
// given twice counts as one.
//
// KEYS[1..7] -> meta, states, receipts, revised, slots, users, used; only with a batch
// KEYS[8]    -> the record of the children; without a batch it is KEYS[1]
// --
// ARGV[1] -> round
// ARGV[2] -> 1 if there is a batch, else 0
// ARGV[3] -> ms until the record expires
// ARGV[4] -> number of indexes that a batch may have
// ARGV[5] -> the index of children that get no index of their own
// ARGV[6] -> the children's lane
// ARGV[7..] -> the children's fields
//
// Returns 1 if the round was recorded, 0 if it was recorded before, and -1 if the
// batch is full.
var nextRoundCmd = redis.NewScript(ledgerLua + `
local children, next = KEYS[#KEYS], ARGV[5]
if tonumber(redis.call("HGET", children, "round") or 0) >= tonumber(ARGV[1]) then
	return 0
end
local inBatch = ARGV[2] == "1" and redis.call("HEXISTS", KEYS[1], "next") == 1
if inBatch then
	next = redis.call("HGET", KEYS[1], "next")
	if next + #ARGV - 6 > tonumber(ARGV[4]) then
		return -1
	end
end
local time = redis.call("TIME")
redis.call("DEL", children)
redis.call("HSET", children, "round", ARGV[1], "since", time[1] * 1000 + math.floor(time[2] / 1000), "lane", ARGV[6])
for i = 7, #ARGV do
	if redis.call("HSETNX", children, ARGV[i], next) == 1 and inBatch then
		setState(next, ABSENT, QUEUED)
		next = next + 1
	end
end
redis.call("PEXPIRE", children, ARGV[3])
if inBatch then
	redis.call("HSET", KEYS[1], "next", next)
	redis.call("HINCRBY", KEYS[1], "children", added)
	save()
end
return 1
`)

// NextRound records the children of a task before they are enqueued, and adds them to
// its batch. parent is the task's identity, which names it if it belongs to no batch.
//
// If the batch is gone its tasks are still carried out, so their children are
// recorded, too. These have their parent's index and get no receipt.
func (s *Store) NextRound(ctx context.Context, ref tasks.BatchRef, parent string, round int, lane tasks.Lane, children []Child) error {
	keys := []string{childrenKey(ref, parent)}
	if ref.IsSet() {
		keys = append(keysOf(ref.Batch).ledger(), keys...)
	}
	args := []any{round, flag(ref.IsSet()), childrenTTL.Milliseconds(), tasks.MaxIndex + 1, ref.Index, string(lane)}
	for _, c := range children {
		args = append(args, c.field())
	}
	n, err := nextRoundCmd.Run(ctx, s.rdb, keys, args...).Int()
	switch {
	case err != nil:
		return fmt.Errorf("record the children of %s: %w", parent, err)
	case n == -1:
		return &FullError{ID: ref.Batch}
	}
	return nil
}

// Children returns the record of a task's children.
func (s *Store) Children(ctx context.Context, ref tasks.BatchRef, parent string) (Children, error) {
	fields, err := s.rdb.HGetAll(ctx, childrenKey(ref, parent)).Result()
	if err != nil {
		return Children{}, fmt.Errorf("read the children of %s: %w", parent, err)
	}
	children := Children{Indexes: make(map[Child]int64)}
	var failed error
	number := func(text string) int64 {
		n, err := strconv.ParseInt(text, 10, 64)
		failed = errors.Join(failed, err)
		return n
	}
	for name, value := range fields {
		switch child, isChild := strings.CutPrefix(name, childPrefix); {
		case isChild:
			kind, target, _ := strings.Cut(child, " ")
			children.Indexes[Child{tasks.Kind(kind), target}] = number(value)
		case name == "round":
			children.Round = int(number(value))
		case name == "lane":
			lane, ok := tasks.ParseLane(value)
			if !ok {
				failed = errors.Join(failed, fmt.Errorf("lane %q; want a version that knows it", value))
			}
			children.Lane = lane
		case name == "since":
			children.Since = time.UnixMilli(number(value)).UTC()
		case name == "enqueued":
			children.Enqueued = value == fields["round"]
		}
	}
	if failed != nil {
		return Children{}, fmt.Errorf("read the children of %s: %w", parent, failed)
	}
	return children, nil
}

// roundEnqueuedCmd records that the children of a round are enqueued. It does
// nothing if the record is gone, or is about another round.
//
// KEYS[1] -> the record of the children
// --
// ARGV[1] -> round
//
// Returns 1.
var roundEnqueuedCmd = redis.NewScript(`
if redis.call("HGET", KEYS[1], "round") == ARGV[1] then
	redis.call("HSET", KEYS[1], "enqueued", ARGV[1])
end
return 1
`)

// RoundEnqueued records that every child of the round was enqueued.
func (s *Store) RoundEnqueued(ctx context.Context, ref tasks.BatchRef, parent string, round int) error {
	if err := roundEnqueuedCmd.Run(ctx, s.rdb, []string{childrenKey(ref, parent)}, round).Err(); err != nil {
		return fmt.Errorf("record that the children of %s are enqueued: %w", parent, err)
	}
	return nil
}

// Forget drops the record of a task's children.
func (s *Store) Forget(ctx context.Context, ref tasks.BatchRef, parent string) error {
	if err := s.rdb.Unlink(ctx, childrenKey(ref, parent)).Err(); err != nil {
		return fmt.Errorf("drop the record of the children of %s: %w", parent, err)
	}
	return nil
}
