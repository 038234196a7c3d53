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

// Children is the note of the tasks that a task has enqueued: the unbinds and
// releases of an off-boarding. They come in rounds, of which the last is
// remembered.
type Children struct {
	// Round counts from 1; 0 if there was none yet.
	Round int
	// Since is when the round began, by Redis' clock.
	Since time.Time
	// Enqueued: all of them were enqueued at least once.
	Enqueued bool
	// Indexes are they, each with its index in the batch; 0 without one, and the
	// parent's in one that is gone.
	Indexes map[Child]int64
}

// Child names a task among those of one user.
type Child struct {
	Kind   tasks.Kind
	Target string
}

// field is how a child is written: no kind holds a space.
func (c Child) field() string { return childPrefix + string(c.Kind) + " " + c.Target }

const (
	childrenTTL = 90 * 24 * time.Hour // longer than anybody replays a dead parent
	childPrefix = "c:"
)

// nextRoundCmd notes the children of a round, and gives each a state in the
// batch, if there is one. A round that is noted already stays as it is, and a
// child that is named twice is one.
//
// KEYS[1..6] -> meta, states, receipts, revised, slots, used; of no batch: none
// KEYS[7]    -> the brood; without a batch KEYS[1]
// --
// ARGV[1] -> round
// ARGV[2] -> 1 if there is a batch, else 0
// ARGV[3] -> ms until the note expires
// ARGV[4] -> indexes that a batch may have
// ARGV[5] -> the index of children that have none of their own
// ARGV[6..] -> the children's fields
//
// Returns 1 if it was noted, 0 if it was before, and -1 if the batch is full.
var nextRoundCmd = redis.NewScript(ledgerLua + `
local brood, next = KEYS[#KEYS], ARGV[5]
if tonumber(redis.call("HGET", brood, "round") or 0) >= tonumber(ARGV[1]) then
	return 0
end
local inBatch = ARGV[2] == "1" and redis.call("HEXISTS", KEYS[1], "next") == 1
if inBatch then
	next = redis.call("HGET", KEYS[1], "next")
	if next + #ARGV - 5 > tonumber(ARGV[4]) then
		return -1
	end
end
local time = redis.call("TIME")
redis.call("DEL", brood)
redis.call("HSET", brood, "round", ARGV[1], "since", time[1] * 1000 + math.floor(time[2] / 1000))
for i = 6, #ARGV do
	if redis.call("HSETNX", brood, ARGV[i], next) == 1 and inBatch then
		put(next, 0, 1)
		next = next + 1
	end
end
redis.call("PEXPIRE", brood, ARGV[3])
if inBatch then
	redis.call("HSET", KEYS[1], "next", next)
	redis.call("HINCRBY", KEYS[1], "children", added)
	balance()
end
return 1
`)

// NextRound notes the children of a task before they are enqueued, and makes
// them part of its batch. parent names the task where it is in no batch.
//
// Children of a batch that is gone are noted as well, since its tasks are
// carried out all the same. They have their parent's index, and leave no receipt.
func (s *Store) NextRound(ctx context.Context, place tasks.BatchRef, parent string, round int, children []Child) error {
	keys := []string{broodKey(place, parent)}
	if place.IsSet() {
		keys = append(keysOf(place.Batch).ledger(), keys...)
	}
	args := []any{round, flag(place.IsSet()), childrenTTL.Milliseconds(), tasks.MaxIndex + 1, place.Index}
	for _, c := range children {
		args = append(args, c.field())
	}
	n, err := nextRoundCmd.Run(ctx, s.rdb, keys, args...).Int()
	switch {
	case err != nil:
		return fmt.Errorf("note the tasks of %s: %w", parent, err)
	case n == -1:
		return &FullError{ID: place.Batch}
	}
	return nil
}

// Children returns what is noted of a task's children.
func (s *Store) Children(ctx context.Context, place tasks.BatchRef, parent string) (Children, error) {
	fields, err := s.rdb.HGetAll(ctx, broodKey(place, parent)).Result()
	if err != nil {
		return Children{}, fmt.Errorf("read the note of %s: %w", parent, err)
	}
	b := Children{Indexes: make(map[Child]int64)}
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
			b.Indexes[Child{tasks.Kind(kind), target}] = number(value)
		case name == "round":
			b.Round = int(number(value))
		case name == "since":
			b.Since = time.UnixMilli(number(value)).UTC()
		case name == "enqueued":
			b.Enqueued = value == fields["round"]
		}
	}
	if failed != nil {
		return Children{}, fmt.Errorf("read the note of %s: %w", parent, failed)
	}
	return b, nil
}

// enqueuedCmd notes that the children of a round are enqueued. The note may
// have gone meanwhile, and then it stays gone.
//
// KEYS[1] -> the brood
// --
// ARGV[1] -> round
//
// Returns 1.
var enqueuedCmd = redis.NewScript(`
if redis.call("HGET", KEYS[1], "round") == ARGV[1] then
	redis.call("HSET", KEYS[1], "enqueued", ARGV[1])
end
return 1
`)

// RoundEnqueued notes that every child of the round was enqueued.
func (s *Store) RoundEnqueued(ctx context.Context, place tasks.BatchRef, parent string, round int) error {
	if err := enqueuedCmd.Run(ctx, s.rdb, []string{broodKey(place, parent)}, round).Err(); err != nil {
		return fmt.Errorf("note the tasks of %s: %w", parent, err)
	}
	return nil
}

// Forget drops the note of a task's children.
func (s *Store) Forget(ctx context.Context, place tasks.BatchRef, parent string) error {
	if err := s.rdb.Unlink(ctx, broodKey(place, parent)).Err(); err != nil {
		return fmt.Errorf("drop the note of %s: %w", parent, err)
	}
	return nil
}
