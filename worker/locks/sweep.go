package locks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/enqueue/batch"
	enqueuelocks "github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/tasks"
)

// ReleaseEnqueuer enqueues the releases of a sweep. *enqueue.Client is one.
type ReleaseEnqueuer interface {
	// EnqueueReleases enqueues releases as a batch of their own. It returns those
	// that are enqueued, even with an error.
	EnqueueReleases(ctx context.Context, batchID string, releases iter.Seq2[tasks.Task, error]) (enqueued []tasks.Task, err error)
}

// Options of a sweep.
type Options struct {
	tasks.LockSweep
	// ScheduledFor is the tick that the sweep is for. It is zero if the sweep was
	// started by hand.
	ScheduledFor time.Time
	// Keep is how long swept locks are remembered: those of the ledger from their
	// expiry, those of an external source from when a sweep last saw them listed.
	Keep time.Duration
	// DryRun changes nothing. Each is called with each lock that would be released.
	DryRun bool
	Each   func(tasks.Lock)
}

// Defaults of Options.
const (
	DefaultGrace    = 2 * time.Minute
	DefaultMax      = 10_000
	DefaultMaxShare = 0.25
	DefaultKeep     = 30 * 24 * time.Hour
)

// FewStale is the number of stale locks up to which MaxShare does not count. In a
// small fleet a single dead backup is a large share, and its lock would be held
// back for ever.
const FewStale = 10

func (o Options) withDefaults() Options {
	o.Grace = cmp.Or(o.Grace, DefaultGrace)
	o.Max = cmp.Or(o.Max, DefaultMax)
	o.MaxShare = cmp.Or(o.MaxShare, DefaultMaxShare)
	o.Keep = cmp.Or(o.Keep, DefaultKeep)
	return o
}

// SweepReport says what a sweep has found and done.
type SweepReport struct {
	// Source is the source that was swept.
	Source tasks.SourceKind `json:"source"`
	// Total is the number of locks that the source knows, without those that were
	// swept before.
	Total int64 `json:"total"`
	// Stale is the number of those whose holder went away.
	Stale int64 `json:"stale"`
	// Enqueued is the number of releases. In a dry run it is the number that would
	// be enqueued.
	Enqueued int64 `json:"enqueued"`
	// HeldBack is the number of stale locks that the guard rails hold back.
	HeldBack int64 `json:"held_back"`
	// Unreadable is the number of locks whose expiry the source does not state
	// clearly. They stay, and are in none of the other numbers.
	Unreadable int64 `json:"unreadable"`
	// Batch is the batch of the releases; empty if there are none.
	Batch string `json:"batch"`
	// Why says which guard rail held locks back.
	Why string `json:"why,omitempty"`
	// FirstUnreadable says what is wrong with one of the unreadable locks.
	FirstUnreadable string `json:"first_unreadable,omitempty"`
}

var (
	// ErrBusy means that another sweep is running.
	ErrBusy = errors.New("another sweep is running")
	// ErrDone means that a sweep of the source has begun since this one was due. If
	// several ticks gather while no worker runs, one sweep is enough.
	ErrDone = errors.New("a sweep has begun since this one was due")
)

// Sweeper sweeps one source. It is safe for concurrent use.
type Sweeper struct {
	Source Source
	// Store is the lock ledger. Whatever source is swept, it holds the lease of the
	// sweep, and records which batches of sweeps are open.
	Store    *enqueuelocks.Store
	Batches  *batch.Store
	Releases ReleaseEnqueuer
	Logger   *zap.Logger
}

const (
	pageSize        = 500 // locks that are marked as swept, or looked up, at once
	markPageTimeout = 5 * time.Second
)

// Sweep enqueues the releases of stale locks, within the guard rails. Locks that
// these hold back are in the report, and not an error. With an error the report
// says what was done before; it is empty if the locks could not be counted.
func (s *Sweeper) Sweep(ctx context.Context, o Options) (SweepReport, error) {
	o = o.withDefaults()
	if err := o.Validate(); err != nil {
		return SweepReport{}, err
	}
	if o.DryRun {
		return s.dryRun(ctx, o)
	}
	var report SweepReport
	err := withLease(ctx, s.Store, s.Logger, func(ctx context.Context) (err error) {
		report, err = s.sweep(ctx, o)
		return err
	})
	return report, err
}

func (s *Sweeper) dryRun(ctx context.Context, o Options) (SweepReport, error) {
	r, stale, err := s.plan(ctx, o)
	if err != nil || o.Each == nil {
		return r, err
	}
	for l, err := range stale {
		if err != nil {
			return r, err
		}
		o.Each(l)
	}
	return r, nil
}

func (s *Sweeper) sweep(ctx context.Context, o Options) (SweepReport, error) {
	if err := s.abandonOpenBatches(ctx); err != nil {
		return SweepReport{}, err
	}
	began, err := s.Store.Now(ctx)
	if err != nil {
		return SweepReport{}, err
	}
	last, err := s.Store.LastSweep(ctx, s.Source.Kind())
	if err != nil {
		return SweepReport{}, err
	}
	// If the last sweep is in the future, Redis' clock was set back, and it does not
	// count.
	if !o.ScheduledFor.IsZero() && !last.Before(o.ScheduledFor) && !last.After(began) {
		return SweepReport{}, ErrDone
	}
	r, stale, err := s.plan(ctx, o)
	if err != nil {
		return r, err
	}
	source := zap.String("source", string(r.Source))
	if r.HeldBack > 0 {
		s.Logger.Error("stale locks are held back", source, zap.Int64("held_back", r.HeldBack), zap.Int64("stale", r.Stale), zap.Int64("total", r.Total),
			zap.String("why", r.Why), zap.String("hint", "check that locks are renewed in the "+sourceNames[r.Source]+"; locks sweep --dry-run --force lists them, and without --dry-run releases them"))
	}
	if r.Unreadable > 0 {
		s.Logger.Error("locks cannot be read, and stay", source, zap.Int64("unreadable", r.Unreadable), zap.String("first", r.FirstUnreadable))
	}
	if r.Enqueued > 0 {
		if err := s.enqueueReleases(ctx, stale, &r); err != nil {
			return r, err
		}
	}
	if _, err := s.Source.Drop(ctx, o.Keep); err != nil {
		return r, fmt.Errorf("drop what was swept long ago: %w", err)
	}
	if err := s.Store.SetLastSweep(ctx, enqueuelocks.Sweep{
		Source: s.Source.Kind(), Began: began, Total: r.Total, Stale: r.Stale, Enqueued: r.Enqueued, HeldBack: r.HeldBack, Unreadable: r.Unreadable, Why: r.Why,
	}); err != nil {
		return r, err
	}
	s.Logger.Info("swept", source, zap.Int64("stale", r.Stale), zap.Int64("enqueued", r.Enqueued), zap.Int64("held_back", r.HeldBack), zap.String("batch", r.Batch))
	return r, nil
}

// abandonOpenBatches closes the batches of sweeps that stopped early. The locks that
// those sweeps did not reach are stale for this sweep. A batch that cannot be closed is
// left to the next sweep, so that it does not stop all sweeps.
func (s *Sweeper) abandonOpenBatches(ctx context.Context) error {
	batches, err := s.Store.OpenBatches(ctx)
	if err != nil {
		return err
	}
	for _, id := range batches {
		err := s.Batches.Abandon(ctx, id)
		if _, never := errors.AsType[*batch.NotFoundError](err); err != nil && !never { // the sweep may have died before it made the batch
			s.Logger.Error("cannot close the batch of a sweep that stopped early; the next sweep tries again", zap.String("batch", id), zap.Error(err))
			continue
		}
		if err := s.Store.CloseBatch(ctx, id); err != nil {
			return err
		}
		s.Logger.Warn("a sweep stopped early; its batch is closed as it is", zap.String("batch", id))
	}
	return nil
}

// plan decides how many of the stale locks may be released, and returns them.
func (s *Sweeper) plan(ctx context.Context, o Options) (SweepReport, iter.Seq2[tasks.Lock, error], error) {
	limit := o.Max
	if o.Force {
		limit = math.MaxInt64
	}
	stats, err := s.Source.Stats(ctx, o.Grace, limit)
	if err != nil {
		return SweepReport{}, nil, fmt.Errorf("count the locks: %w", err)
	}
	r := SweepReport{Source: s.Source.Kind(), Total: stats.Total, Stale: stats.Stale, Enqueued: stats.Stale, Unreadable: stats.Unreadable}
	if stats.FirstUnreadable != nil {
		r.FirstUnreadable = stats.FirstUnreadable.Error()
	}
	switch {
	case o.Force:
	case r.Stale > FewStale && float64(r.Stale) > o.MaxShare*float64(r.Total):
		r.Enqueued = 0
		r.Why = fmt.Sprintf("%d of %d locks are stale, more than the share of %g: does nobody renew them in the %s?", r.Stale, r.Total, o.MaxShare, sourceNames[r.Source])
	case r.Stale > o.Max:
		r.Enqueued = o.Max
		r.Why = fmt.Sprintf("%d locks are stale, more than %d go in one sweep", r.Stale, o.Max)
	}
	r.HeldBack = r.Stale - r.Enqueued
	return r, first(r.Enqueued, s.readable(stats.Oldest)), nil
}

// readable leaves out what cannot be read in the lock ledger. It stays there, and
// holds up no other lock.
func (s *Sweeper) readable(locks iter.Seq2[tasks.Lock, error]) iter.Seq2[tasks.Lock, error] {
	return func(yield func(tasks.Lock, error) bool) {
		for l, err := range locks {
			if bad, ok := errors.AsType[*enqueuelocks.UnreadableError](err); ok {
				s.Logger.Error("a lock cannot be read, and stays", zap.String("source", string(s.Source.Kind())), zap.Error(bad))
				continue
			}
			if !yield(l, err) {
				return
			}
		}
	}
}

// sourceNames names the sources in messages.
var sourceNames = map[tasks.SourceKind]string{tasks.SourceLedger: "ledger", tasks.SourceFile: "file", tasks.SourceSQL: "database"}

// first yields the first n locks. It ends after the first error.
func first(n int64, locks iter.Seq2[tasks.Lock, error]) iter.Seq2[tasks.Lock, error] {
	return func(yield func(tasks.Lock, error) bool) {
		if n == 0 {
			return
		}
		left := n
		for l, err := range locks {
			if left--; !yield(l, err) || err != nil || left == 0 {
				return
			}
		}
	}
}

const batchPrefix = "sweep-" // a UUID follows

// IsSweep reports whether a batch is the releases of a sweep.
func IsSweep(batchID string) bool {
	id, ok := strings.CutPrefix(batchID, batchPrefix)
	return ok && uuid.Validate(id) == nil
}

// enqueueReleases enqueues the releases of these locks, and marks the locks as swept.
func (s *Sweeper) enqueueReleases(ctx context.Context, stale iter.Seq2[tasks.Lock, error], r *SweepReport) error {
	r.Batch = batchPrefix + uuid.Must(uuid.NewV7()).String()
	if err := s.Store.OpenBatch(ctx, r.Batch); err != nil {
		r.Batch, r.Enqueued = "", 0
		return err
	}
	enqueued, err := s.Releases.EnqueueReleases(ctx, r.Batch, s.releaseTasks(stale))
	if err == nil {
		err = s.Store.CloseBatch(ctx, r.Batch) // if this fails, the next sweep closes it
	}
	if r.Enqueued = int64(len(enqueued)); r.Enqueued == 0 {
		r.Batch = "" // all locks were renewed since they were counted
	}
	// All locks whose release is enqueued are marked, even after an error or at the
	// end of ctx.
	for releases := range slices.Chunk(enqueued, pageSize) {
		page := make([]tasks.Lock, 0, len(releases))
		for _, t := range releases {
			if release, ok := t.(tasks.LockRelease); ok {
				page = append(page, tasks.Lock{UserID: release.UserID, LockID: release.LockID, ExpiresAt: release.Evidence.ExpiredAt})
			}
		}
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), markPageTimeout)
		markErr := s.Source.MarkSwept(limited, page)
		cancel()
		if markErr != nil {
			return errors.Join(err, fmt.Errorf("mark what was swept: %w", markErr))
		}
	}
	return err
}

// releaseTasks yields the tasks that release these locks.
func (s *Sweeper) releaseTasks(stale iter.Seq2[tasks.Lock, error]) iter.Seq2[tasks.Task, error] {
	return func(yield func(tasks.Task, error) bool) {
		for l, err := range stale {
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(tasks.LockRelease{UserID: l.UserID, LockID: l.LockID, Evidence: tasks.SweepEvidence{Source: s.Source.Kind(), ExpiredAt: l.ExpiresAt}}, nil) {
				return
			}
		}
	}
}
