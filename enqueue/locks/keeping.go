package locks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// Keeping is the ledger as workers and sweeps need it: in the words of the
// vocabulary, since package worker does not know this one.
type Keeping struct {
	Store *Store
}

// Kind is the word for the ledger as a source.
func (Keeping) Kind() tasks.Source { return tasks.SourceLedger }

// Survey counts the locks whose release is not enqueued, and yields all stale
// ones, which it reads as they are wanted.
func (k Keeping) Survey(ctx context.Context, grace time.Duration, _ int64) (tasks.Survey, error) {
	n, err := k.Store.Counts(ctx, grace)
	return tasks.Survey{Total: n.Total - n.Swept, Stale: n.Stale, Oldest: k.Store.Stale(ctx, grace)}, err
}

// Swept notes that releases are enqueued for these.
func (k Keeping) Swept(ctx context.Context, swept []tasks.Lock) error {
	return k.Store.Swept(ctx, swept)
}

// Drop forgets what was swept and expired for longer than keep.
func (k Keeping) Drop(ctx context.Context, keep time.Duration) (int64, error) {
	return k.Store.Drop(ctx, keep)
}

// Claim is called just before a sweep's release. If refused is empty nobody can
// renew the lock in the ledger until the claim is ended, or over.
func (k Keeping) Claim(ctx context.Context, t tasks.LockRelease, hold time.Duration) (ticket int64, refused string, err error) {
	claim := k.Store.Claim
	if t.Evidence.Source != tasks.SourceLedger {
		claim = k.Store.ClaimListed
	}
	c, err := claim(ctx, tasks.LockID{UserID: t.UserID, LockID: t.LockID}, t.Evidence.ExpiredAt, hold)
	if err != nil || c.Status == Claimed {
		return c.FencingToken, "", err
	}
	return 0, string(c.Status), nil
}

// End ends a claim; gone says that the lock is released.
func (k Keeping) End(ctx context.Context, t tasks.LockRelease, ticket int64, gone bool) error {
	c := Claim{ID: tasks.LockID{UserID: t.UserID, LockID: t.LockID}, Seen: t.Evidence.ExpiredAt, FencingToken: ticket}
	if gone {
		return k.Store.Released(ctx, []Claim{c})
	}
	if ticket == 0 {
		return nil
	}
	return k.Store.Unclaim(ctx, c)
}

const (
	// sweepingKey is who sweeps.
	sweepingKey = "{kooworker:locks}:sweeping"
	// unfinishedKey is a set: batches of sweeps of which not all is known to be
	// enqueued.
	unfinishedKey = "{kooworker:locks}:unfinished"
	// doneKey is a hash: source by the ms at which its last whole sweep began.
	doneKey = "{kooworker:locks}:done"
)

// holdCmd takes a lease, or keeps it.
//
// KEYS[1] -> {kooworker:locks}:sweeping
// --
// ARGV[1] -> owner
// ARGV[2] -> ms until it runs out
//
// Returns 1 if the owner has it, else 0.
var holdCmd = redis.NewScript(`
local owner = redis.call("GET", KEYS[1])
if owner and owner ~= ARGV[1] then
	return 0
end
redis.call("SET", KEYS[1], ARGV[1], "PX", ARGV[2])
return 1
`)

// Hold takes the lease of the sweep for owner, or keeps it: one sweep runs at a
// time.
func (k Keeping) Hold(ctx context.Context, owner string, d time.Duration) (held bool, err error) {
	n, err := holdCmd.Run(ctx, k.Store.rdb, []string{sweepingKey}, owner, d.Milliseconds()).Int()
	if err != nil {
		return false, fmt.Errorf("locks: hold the lease of the sweep: %w", err)
	}
	return n == 1, nil
}

// leaveCmd gives a lease back.
//
// KEYS[1] -> {kooworker:locks}:sweeping
// --
// ARGV[1] -> owner
//
// Returns 1 if the owner had it, else 0.
var leaveCmd = redis.NewScript(`
if redis.call("GET", KEYS[1]) ~= ARGV[1] then
	return 0
end
return redis.call("DEL", KEYS[1])
`)

// Leave gives the lease back.
func (k Keeping) Leave(ctx context.Context, owner string) error {
	if err := leaveCmd.Run(ctx, k.Store.rdb, []string{sweepingKey}, owner).Err(); err != nil {
		return fmt.Errorf("locks: leave the lease of the sweep: %w", err)
	}
	return nil
}

// Begin notes a sweep's batch before anything in it is enqueued.
func (k Keeping) Begin(ctx context.Context, batch string) error {
	if err := k.Store.rdb.SAdd(ctx, unfinishedKey, batch).Err(); err != nil {
		return fmt.Errorf("locks: note the batch of the sweep: %w", err)
	}
	return nil
}

// Finish notes that nothing more will be enqueued in it.
func (k Keeping) Finish(ctx context.Context, batch string) error {
	if err := k.Store.rdb.SRem(ctx, unfinishedKey, batch).Err(); err != nil {
		return fmt.Errorf("locks: note the end of the sweep: %w", err)
	}
	return nil
}

// Unfinished returns the batches that were begun and not finished.
func (k Keeping) Unfinished(ctx context.Context) ([]string, error) {
	all, err := k.Store.rdb.SMembers(ctx, unfinishedKey).Result()
	if err != nil {
		return nil, fmt.Errorf("locks: look for unfinished sweeps: %w", err)
	}
	return all, nil
}

// Now is what Redis' clock shows.
func (k Keeping) Now(ctx context.Context) (time.Time, error) { return nowOf(ctx, k.Store.rdb) }

// Done notes when the last whole sweep of a source began.
func (k Keeping) Done(ctx context.Context, source tasks.Source, began time.Time) error {
	if err := k.Store.rdb.HSet(ctx, doneKey, string(source), began.UnixMilli()).Err(); err != nil {
		return fmt.Errorf("locks: note the end of the sweep: %w", err)
	}
	return nil
}

// LastDone returns when the last whole sweep of a source began; zero if there was
// none.
func (k Keeping) LastDone(ctx context.Context, source tasks.Source) (began time.Time, err error) {
	ms, err := k.Store.rdb.HGet(ctx, doneKey, string(source)).Int64()
	if errors.Is(err, redis.Nil) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("locks: look for the last sweep: %w", err)
	}
	return time.UnixMilli(ms).UTC(), nil
}
