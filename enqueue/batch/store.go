package batch

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// Store is the ledger of all batches in one Redis. It is safe for concurrent
// use.
type Store struct {
	rdb redis.UniversalClient
}

// NewStore returns a Store over a client, which stays the caller's to close.
func NewStore(rdb redis.UniversalClient) *Store { return &Store{rdb: rdb} }

// nameReservation is how long the name of a batch that has gone is not given out again.
// state.go has it as well.
const nameReservation = 90 * 24 * time.Hour

// DefaultKeep is how long a batch is kept after its completion.
const DefaultKeep = 30 * 24 * time.Hour

// Spec says what a batch is to be. Whoever resumes it must ask for the same.
type Spec struct {
	// ID names the batch; see tasks.Place. Empty: a new one is generated, and
	// later ones sort behind it.
	ID string
	// NoReceipts: outcomes are counted, and no receipts written.
	NoReceipts bool
	// NoGuard is the intent of its tasks; see enqueue.NoGuard.
	NoGuard bool
	// Keep is how long the batch is kept after its completion. At least a
	// minute. Default DefaultKeep. When resumed the first one stays.
	Keep time.Duration
}

// NewID returns an ID; later ones sort behind it.
func NewID() (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("batch: generate an id: %w", err)
	}
	return id.String(), nil
}

// NotFoundError means that no such batch is there, or not any more.
type NotFoundError struct{ ID string }

// Error implements error.
func (e *NotFoundError) Error() string {
	return fmt.Sprintf("there is no batch %q", e.ID)
}

// Hint says what to do about it.
func (e *NotFoundError) Hint() string {
	return "batch list shows those there are; a batch goes when the time that it was to be kept has passed since its completion"
}

// SpecError means that a batch is there, and is another one than was asked for.
type SpecError struct {
	ID string
	// Field is what differs.
	Field   string
	Was, Is bool
}

// Error implements error.
func (e *SpecError) Error() string {
	return fmt.Sprintf("batch %s was made with %s=%t and cannot be resumed with %t", e.ID, e.Field, e.Was, e.Is)
}

// NameReservedError means that there was a batch of this name. Its tasks may still be
// outstanding, or dead and replayed one day, and would settle as tasks of the new
// one: for 90 days after it has gone the name is not given out again.
type NameReservedError struct{ ID string }

// Error implements error.
func (e *NameReservedError) Error() string {
	return fmt.Sprintf("there was a batch %s, which has expired or was deleted; want another ID", e.ID)
}

// openCmd makes a batch, unless it is there.
//
// KEYS[1] -> meta
// KEYS[2] -> used
// --
// ARGV[1] -> ms to keep it after its completion
// ARGV[2] -> 1 if receipts are to be written, else 0
// ARGV[3] -> 1 if its tasks are not guarded, else 0
//
// Returns nothing if there was one of that name before. Else 1 if it was made, or
// 0; then the ms in which it was made, whether
// it has receipts, whether it is unguarded and whether it is complete.
var openCmd = redis.NewScript(`
local made = 0
if redis.call("EXISTS", KEYS[1]) == 0 then
	if redis.call("EXISTS", KEYS[2]) == 1 then
		return {}
	end
	local time = redis.call("TIME")
	redis.call("HSET", KEYS[1], "v", 1, "created_at", time[1] * 1000 + math.floor(time[2] / 1000), "keep", ARGV[1],
		"with_receipts", ARGV[2], "no_guard", ARGV[3], "next", 0, "total", 0, "queued", 0)
	made = 1
	redis.call("SET", KEYS[2], "")
end
local m = redis.call("HMGET", KEYS[1], "created_at", "with_receipts", "no_guard")
return {made, tonumber(m[1]), tonumber(m[2]), tonumber(m[3]), redis.call("HEXISTS", KEYS[1], "completed_at")}
`)

// Open makes a batch, or finds the one that is there. It returns the batch's ID,
// and whether it was there.
//
// The batch is made before it is listed. A crash in between leaves one that
// nobody lists and that holds nothing; to open it again lists it.
func (s *Store) Open(ctx context.Context, spec Spec) (id string, resumed bool, err error) {
	if spec.ID == "" {
		if spec.ID, err = NewID(); err != nil {
			return "", false, err
		}
	}
	if err := tasks.ValidateBatchID(spec.ID); err != nil {
		return "", false, err
	}
	if spec.Keep == 0 {
		spec.Keep = DefaultKeep
	}
	if spec.Keep < time.Minute {
		return "", false, fmt.Errorf("batch: to keep it for %s is too short; want at least 1m", spec.Keep)
	}
	m, err := openCmd.Run(ctx, s.rdb, []string{keysOf(spec.ID).meta, keysOf(spec.ID).used}, spec.Keep.Milliseconds(), flag(!spec.NoReceipts), flag(spec.NoGuard)).Int64Slice()
	if err == nil && len(m) == 0 {
		return "", false, &NameReservedError{ID: spec.ID}
	}
	if err == nil && len(m) != 5 {
		err = fmt.Errorf("%d values; want 5", len(m))
	}
	if err != nil {
		return "", false, fmt.Errorf("open batch %s: %w", spec.ID, err)
	}
	if was := m[2] == 0; was != spec.NoReceipts {
		return "", false, &SpecError{ID: spec.ID, Field: "no-receipts", Was: was, Is: spec.NoReceipts}
	}
	if was := m[3] == 1; was != spec.NoGuard {
		return "", false, &SpecError{ID: spec.ID, Field: "no-guard", Was: was, Is: spec.NoGuard}
	}
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.ZAddNX(ctx, allKey, redis.Z{Score: float64(m[1]), Member: spec.ID})
		if m[4] == 0 { // what is complete may have been told of
			p.SAdd(ctx, openKey, spec.ID)
		}
		return nil
	})
	if err != nil {
		return "", false, fmt.Errorf("list batch %s: %w", spec.ID, err)
	}
	return spec.ID, m[0] == 0, nil
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// balanceFields are what a Balance is read from.
var balanceFields = slices.Concat([]string{"created_at", "sealed", "total"}, stateNames[Queued:], []string{"completed_at"})

// Show returns how a batch stands.
func (s *Store) Show(ctx context.Context, id string) (tasks.BatchStats, error) {
	if err := tasks.ValidateBatchID(id); err != nil {
		return tasks.BatchStats{}, &NotFoundError{ID: id}
	}
	values, err := s.rdb.HMGet(ctx, keysOf(id).meta, balanceFields...).Result()
	if err != nil {
		return tasks.BatchStats{}, fmt.Errorf("read batch %s: %w", id, err)
	}
	return readBalance(id, values)
}

func readBalance(id string, values []any) (tasks.BatchStats, error) {
	if len(values) != len(balanceFields) || values[0] == nil {
		return tasks.BatchStats{}, &NotFoundError{ID: id}
	}
	n := make([]int64, len(values))
	for i, v := range values {
		if text, ok := v.(string); ok {
			var err error
			if n[i], err = strconv.ParseInt(text, 10, 64); err != nil {
				return tasks.BatchStats{}, fmt.Errorf("read batch %s: %s is %q; want a number", id, balanceFields[i], text)
			}
		}
	}
	b := tasks.BatchStats{
		ID: id, CreatedAt: time.UnixMilli(n[0]).UTC(), Total: n[2], Queued: n[3], Succeeded: n[4], AlreadyGone: n[5],
		Superseded: n[6], Dead: n[7], Discarded: n[8], Duplicate: n[9], Rejected: n[10],
	}
	b.Done = values[1] != nil && b.Queued == 0
	if at := n[len(n)-1]; at != 0 {
		b.CompletedAt = time.UnixMilli(at).UTC()
	}
	return b, nil
}

// listPage is how many batches are read in one exchange.
const listPage = 100

// List yields how the batches stand, the latest first.
func (s *Store) List(ctx context.Context) iter.Seq2[tasks.BatchStats, error] {
	return func(yield func(tasks.BatchStats, error) bool) {
		// Read at once: what expires while it is read would shift the pages.
		ids, err := s.rdb.ZRevRange(ctx, allKey, 0, -1).Result()
		if err != nil {
			yield(tasks.BatchStats{}, fmt.Errorf("list the batches: %w", err))
			return
		}
		for len(ids) > 0 {
			page := ids[:min(listPage, len(ids))]
			ids = ids[len(page):]
			balances, err := s.showAll(ctx, page)
			if err != nil {
				yield(tasks.BatchStats{}, err)
				return
			}
			for _, b := range balances {
				if !yield(b, nil) {
					return
				}
			}
		}
	}
}

// showAll reads some batches in one exchange, and takes those that have expired
// off the list. A batch is made before it is listed, so one that is listed and
// not there has gone.
func (s *Store) showAll(ctx context.Context, ids []string) ([]tasks.BatchStats, error) {
	cmds := make([]*redis.SliceCmd, len(ids))
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, id := range ids {
			cmds[i] = p.HMGet(ctx, keysOf(id).meta, balanceFields...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the batches: %w", err)
	}
	var balances []tasks.BatchStats
	var gone []any
	for i, id := range ids {
		b, err := readBalance(id, cmds[i].Val())
		if _, missing := errors.AsType[*NotFoundError](err); missing {
			gone = append(gone, id)
			continue
		}
		if err != nil {
			return nil, err
		}
		balances = append(balances, b)
	}
	if len(gone) > 0 {
		_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.ZRem(ctx, allKey, gone...)
			p.SRem(ctx, openKey, gone...)
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("list the batches: %w", err)
	}
	return balances, nil
}

const (
	waitEvery = 200 * time.Millisecond // how often Wait looks
	maxOutage = 30 * time.Second       // how long Redis may fail meanwhile
)

// Wait waits until the batch is done, or ctx ends. It calls each, if there is
// one, with what it sees. When Redis fails in between it goes on trying for a
// while.
func (s *Store) Wait(ctx context.Context, id string, each func(tasks.BatchStats)) (tasks.BatchStats, error) {
	tick := time.NewTicker(waitEvery)
	defer tick.Stop()
	var b tasks.BatchStats
	seen := time.Now()
	for {
		now, err := s.showUnder(ctx, id)
		_, missing := errors.AsType[*NotFoundError](err)
		switch {
		case err == nil:
			b, seen = now, time.Now()
			if each != nil {
				each(b)
			}
			if b.Done {
				return b, nil
			}
		case ctx.Err() != nil:
			return b, ctx.Err()
		case missing || b.ID == "" || time.Since(seen) > maxOutage:
			return b, err
		}
		select {
		case <-ctx.Done():
			return b, ctx.Err()
		case <-tick.C:
		}
	}
}

// showUnder ends with ctx: go-redis waits for a Redis that hangs until its own
// time-out.
func (s *Store) showUnder(ctx context.Context, id string) (tasks.BatchStats, error) {
	type result struct {
		balance tasks.BatchStats
		err     error
	}
	done := make(chan result, 1)
	go func() {
		b, err := s.Show(ctx, id)
		done <- result{b, err}
	}()
	select {
	case r := <-done:
		return r.balance, r.err
	case <-ctx.Done():
		return tasks.BatchStats{}, ctx.Err()
	}
}

// NotDoneError means that a batch has tasks whose outcome is still open.
type NotDoneError struct{ Balance tasks.BatchStats }

// Error implements error.
func (e *NotDoneError) Error() string {
	if e.Balance.Queued > 0 {
		return fmt.Sprintf("batch %s is not done: %d of %d tasks are queued", e.Balance.ID, e.Balance.Queued, e.Balance.Total)
	}
	return fmt.Sprintf("batch %s is not done: its input was not read to the end", e.Balance.ID)
}

// Delete removes a batch with its receipts. One that is not done is refused,
// unless forced; its tasks are carried out all the same, and leave no receipt.
func (s *Store) Delete(ctx context.Context, id string, force bool) error {
	b, err := s.Show(ctx, id)
	if err != nil {
		return err
	}
	if !b.Done && !force {
		return &NotDoneError{Balance: b}
	}
	k := keysOf(id)
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.PExpire(ctx, k.used, nameReservation)
		p.Unlink(ctx, k.meta, k.states, k.receipts, k.revised, k.slots)
		return nil
	})
	if err != nil {
		return fmt.Errorf("delete batch %s: %w", id, err)
	}
	_, err = s.showAll(ctx, []string{id}) // which takes it off the list
	return err
}
