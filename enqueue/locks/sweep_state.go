package locks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// The keys of what one sweep leaves for the next, whichever source it is of.
const (
	// sweepLeaseKey is a string: the owner of the sweep that is running.
	sweepLeaseKey = "{kooworker:locks}:sweeping"
	// openBatchesKey is a set: batches of sweeps that may be incomplete.
	openBatchesKey = "{kooworker:locks}:unfinished"
	// lastSweepsKey is a hash: of each source the ms at which its last complete sweep
	// began, and under "<source>:report" what that found, in JSON.
	lastSweepsKey = "{kooworker:locks}:done"
)

// acquireLeaseCmd acquires the lease, or extends it.
//
// KEYS[1] -> {kooworker:locks}:sweeping
// --
// ARGV[1] -> owner
// ARGV[2] -> ms until the lease expires
//
// Returns 1 if the owner has the lease, else 0. It takes effect as a whole.
var acquireLeaseCmd = redis.NewScript(`
local owner = redis.call("GET", KEYS[1])
if owner and owner ~= ARGV[1] then
	return 0
end
redis.call("SET", KEYS[1], ARGV[1], "PX", ARGV[2])
return 1
`)

// AcquireLease acquires the lease of the sweep for an owner, or extends it if the
// owner has it already. It reports false while another owner has it. The lease
// lets one sweep run at a time.
func (s *Store) AcquireLease(ctx context.Context, owner string, ttl time.Duration) (acquired bool, err error) {
	n, err := acquireLeaseCmd.Run(ctx, s.rdb, []string{sweepLeaseKey}, owner, ttl.Milliseconds()).Int()
	if err != nil {
		return false, fmt.Errorf("locks: acquire the lease of the sweep: %w", err)
	}
	return n == 1, nil
}

// releaseLeaseCmd releases the lease.
//
// KEYS[1] -> {kooworker:locks}:sweeping
// --
// ARGV[1] -> owner
//
// Returns 1 if the owner had the lease, else 0. It takes effect as a whole.
var releaseLeaseCmd = redis.NewScript(`
if redis.call("GET", KEYS[1]) ~= ARGV[1] then
	return 0
end
return redis.call("DEL", KEYS[1])
`)

// ReleaseLease releases the lease of the sweep if the owner has it.
func (s *Store) ReleaseLease(ctx context.Context, owner string) error {
	if err := releaseLeaseCmd.Run(ctx, s.rdb, []string{sweepLeaseKey}, owner).Err(); err != nil {
		return fmt.Errorf("locks: release the lease of the sweep: %w", err)
	}
	return nil
}

// OpenBatch records a sweep's batch before any release in it is enqueued.
func (s *Store) OpenBatch(ctx context.Context, batch string) error {
	if err := s.rdb.SAdd(ctx, openBatchesKey, batch).Err(); err != nil {
		return fmt.Errorf("locks: open the batch of the sweep: %w", err)
	}
	return nil
}

// CloseBatch records that nothing more will be enqueued in a batch.
func (s *Store) CloseBatch(ctx context.Context, batch string) error {
	if err := s.rdb.SRem(ctx, openBatchesKey, batch).Err(); err != nil {
		return fmt.Errorf("locks: close the batch of the sweep: %w", err)
	}
	return nil
}

// OpenBatches returns the batches that were opened and not closed: their sweeps
// are running, or were cut short.
func (s *Store) OpenBatches(ctx context.Context) ([]string, error) {
	batches, err := s.rdb.SMembers(ctx, openBatchesKey).Result()
	if err != nil {
		return nil, fmt.Errorf("locks: list the open batches of sweeps: %w", err)
	}
	return batches, nil
}

// Sweep is what a complete sweep found.
type Sweep struct {
	Source     tasks.SourceKind `json:"source"`
	Began      time.Time        `json:"began"`
	Total      int64            `json:"total"`
	Stale      int64            `json:"stale"`
	Enqueued   int64            `json:"enqueued"`
	HeldBack   int64            `json:"held_back"`
	Unreadable int64            `json:"unreadable"`
	Why        string           `json:"why,omitempty"` // which guard rail held locks back
}

// reportField is the field of lastSweepsKey with what a sweep found.
func reportField(source tasks.SourceKind) string { return string(source) + ":report" }

// SetLastSweep records the last complete sweep of a source.
func (s *Store) SetLastSweep(ctx context.Context, sweep Sweep) error {
	report, err := json.Marshal(sweep)
	if err == nil {
		err = s.rdb.HSet(ctx, lastSweepsKey, string(sweep.Source), sweep.Began.UnixMilli(), reportField(sweep.Source), report).Err()
	}
	if err != nil {
		return fmt.Errorf("locks: record the sweep: %w", err)
	}
	return nil
}

// LastSweeps returns what the last complete sweep of each source found, in the order of
// tasks.Sources. Of a sweep of an older version only the time is known.
func (s *Store) LastSweeps(ctx context.Context) (sweeps []Sweep, err error) {
	fields, err := s.rdb.HGetAll(ctx, lastSweepsKey).Result()
	if err != nil {
		return nil, fmt.Errorf("locks: read the last sweeps: %w", err)
	}
	for _, source := range tasks.Sources() {
		ms, err := strconv.ParseInt(fields[string(source)], 10, 64)
		if err != nil {
			continue // it was never swept
		}
		sweep := Sweep{Source: source, Began: time.UnixMilli(ms).UTC()}
		var report Sweep
		if json.Unmarshal([]byte(fields[reportField(source)]), &report) == nil && report.Began.UnixMilli() == ms {
			sweep = report
		}
		sweeps = append(sweeps, sweep)
	}
	return sweeps, nil
}

// LastSweep returns when the last complete sweep of a source began; zero if there
// was none.
func (s *Store) LastSweep(ctx context.Context, source tasks.SourceKind) (began time.Time, err error) {
	ms, err := s.rdb.HGet(ctx, lastSweepsKey, string(source)).Int64()
	if errors.Is(err, redis.Nil) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("locks: read when the last sweep began: %w", err)
	}
	return time.UnixMilli(ms).UTC(), nil
}

// Now returns the time by Redis' clock.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	now, err := s.rdb.Time(ctx).Result()
	if err != nil {
		return time.Time{}, fmt.Errorf("locks: read Redis' clock: %w", err)
	}
	return now.UTC(), nil
}
