package locks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/tasks"
)

// Source is a place where it is known which locks there are: the ledger, which
// is in package enqueue/locks, or a Listed.
type Source interface {
	// Kind is what its releases are marked with.
	Kind() tasks.Source
	// Survey says how the locks stand. A lock is stale once its expiry has been
	// over for as long as grace, by Redis' clock. No more than most of the stale
	// ones are wanted.
	Survey(ctx context.Context, grace time.Duration, most int64) (tasks.Survey, error)
	// Swept notes that releases are enqueued for these.
	Swept(ctx context.Context, swept []tasks.Lock) error
	// Drop forgets what was swept, and is of no use any more since keep ago.
	Drop(ctx context.Context, keep time.Duration) (dropped int64, err error)
}

// Lease lets one sweep run at a time, and leaves word of it to the next one.
type Lease interface {
	// Hold takes the lease for owner, or keeps it; false if somebody else has it.
	Hold(ctx context.Context, owner string, d time.Duration) (held bool, err error)
	// Leave gives it back.
	Leave(ctx context.Context, owner string) error
	// Begin notes a batch before anything in it is enqueued, and Finish that nothing
	// more will be.
	Begin(ctx context.Context, batch string) error
	Finish(ctx context.Context, batch string) error
	// Unfinished returns the batches of sweeps that have died in between.
	Unfinished(ctx context.Context) (batches []string, err error)
	// Now is what Redis' clock shows.
	Now(ctx context.Context) (time.Time, error)
	// Done notes when the last whole sweep of a source began, and LastDone returns
	// that; zero if there was none.
	Done(ctx context.Context, source tasks.Source, began time.Time) error
	LastDone(ctx context.Context, source tasks.Source) (began time.Time, err error)
}

// Producer enqueues releases in a batch of their own. package enqueue's Client
// does.
type Producer interface {
	// Releases enqueues all of them, and returns the locks of those that are, even
	// with an error.
	Releases(ctx context.Context, batch string, releases iter.Seq2[tasks.Task, error]) (enqueued []tasks.Task, err error)
	// Abandon ends such a batch as it is. One that was never made is none to end.
	Abandon(ctx context.Context, batch string) error
}

// Options of a sweep.
type Options struct {
	tasks.LockSweep
	// Due is the tick that the sweep is for; zero for one that nothing stands for.
	Due time.Time
	// Keep is how long what was swept is remembered after its expiry.
	Keep time.Duration
	// DryRun changes nothing. Each calls with each lock that would be released.
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

func (o Options) withDefaults() Options {
	o.Grace = cmp.Or(o.Grace, DefaultGrace)
	o.Max = cmp.Or(o.Max, DefaultMax)
	o.MaxShare = cmp.Or(o.MaxShare, DefaultMaxShare)
	o.Keep = cmp.Or(o.Keep, DefaultKeep)
	return o
}

// Report is what a sweep has found and done.
type Report struct {
	// Source is where it looked.
	Source tasks.Source `json:"source"`
	// Total is the number of locks that the source knows, but for those that were
	// swept before.
	Total int64 `json:"total"`
	// Stale is the number of those whose holder went away.
	Stale int64 `json:"stale"`
	// Enqueued is the number of releases; of a dry run, those that would be.
	Enqueued int64 `json:"enqueued"`
	// HeldBack is the number of stale locks that the guard rails keep.
	HeldBack int64 `json:"held_back"`
	// Unreadable is the number of those of which the source does not say clearly
	// when they expire. They stay, and are in none of the other numbers.
	Unreadable int64 `json:"unreadable"`
	// Batch is the releases' batch; empty if there are none.
	Batch string `json:"batch"`
	// Why says which rail held them back.
	Why string `json:"why,omitempty"`
	// FirstUnreadable says what is wrong with one of the unreadable ones.
	FirstUnreadable string `json:"first_unreadable,omitempty"`
}

var (
	// ErrBusy means that another sweep is running.
	ErrBusy = errors.New("another sweep is running")
	// ErrDone means that a sweep of the source has begun since this one was due: of
	// the ticks that gather while no worker is there one is enough.
	ErrDone = errors.New("a sweep has begun since this one was due")
)

// Sweeper sweeps one source. It is safe for concurrent use.
type Sweeper struct {
	Source   Source
	Lease    Lease
	Producer Producer
	Logger   *zap.Logger
}

const (
	leaseLife   = 15 * time.Second
	leaseRenew  = 3 * time.Second
	sweptAtOnce = 500
	sweptWithin = 5 * time.Second // of one such page
)

// Sweep releases what is stale, within the guard rails. What they hold back is
// in the report, and not an error. With an error the report says what was done
// before; it is empty if the locks could not be surveyed.
func (s *Sweeper) Sweep(ctx context.Context, o Options) (Report, error) {
	o = o.withDefaults()
	if err := o.Validate(); err != nil {
		return Report{}, err
	}
	if o.DryRun {
		return s.dryRun(ctx, o)
	}
	// A new owner each time: the task of a sweep that died runs again, and must
	// not take a lease for its own that the dead one still holds.
	owner, asked := uuid.NewString(), time.Now()
	held, err := s.Lease.Hold(ctx, owner, leaseLife)
	if err != nil {
		return Report{}, err
	}
	if !held {
		return Report{}, ErrBusy
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	go func() { defer close(done); s.renew(ctx, cancel, owner, asked) }()
	report, err := s.sweep(ctx, o)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	cancel(nil)
	<-done
	if leaveErr := s.Lease.Leave(context.WithoutCancel(ctx), owner); leaveErr != nil {
		s.Logger.Warn("the lease of the sweep runs out by itself", zap.Error(leaveErr))
	}
	return report, err
}

// renew keeps the lease while the sweep runs, and ends the sweep without it. The
// lease was asked for at a time; it is given up before Redis could let it go.
func (s *Sweeper) renew(ctx context.Context, lost context.CancelCauseFunc, owner string, asked time.Time) {
	tick := time.NewTicker(leaseRenew)
	defer tick.Stop()
	until := asked.Add(leaseLife - leaseRenew)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		asked = time.Now()
		limited, cancel := context.WithTimeout(ctx, leaseRenew)
		held, err := s.Lease.Hold(limited, owner, leaseLife)
		cancel()
		switch {
		case err == nil && held:
			until = asked.Add(leaseLife - leaseRenew)
		case err == nil, !time.Now().Before(until):
			lost(errors.New("the lease of the sweep is lost"))
			return
		}
	}
}

// plan decides how many of the stale locks may go, and yields these.
func (s *Sweeper) plan(ctx context.Context, o Options) (Report, iter.Seq2[tasks.Lock, error], error) {
	most := o.Max
	if o.Force {
		most = math.MaxInt64
	}
	is, err := s.Source.Survey(ctx, o.Grace, most)
	if err != nil {
		return Report{}, nil, fmt.Errorf("survey the locks: %w", err)
	}
	r := Report{Source: s.Source.Kind(), Total: is.Total, Stale: is.Stale, Enqueued: is.Stale, Unreadable: is.Unreadable}
	if is.FirstUnreadable != nil {
		r.FirstUnreadable = is.FirstUnreadable.Error()
	}
	switch {
	case o.Force:
	case float64(r.Stale) > o.MaxShare*float64(r.Total):
		r.Enqueued = 0
		r.Why = fmt.Sprintf("%d of %d locks are stale, more than the share of %g: does nobody renew them in the %s?", r.Stale, r.Total, o.MaxShare, places[r.Source])
	case r.Stale > o.Max:
		r.Enqueued = o.Max
		r.Why = fmt.Sprintf("%d locks are stale, more than %d go in one sweep", r.Stale, o.Max)
	}
	r.HeldBack = r.Stale - r.Enqueued
	return r, first(r.Enqueued, is.Oldest), nil
}

// places are the sources in words.
var places = map[tasks.Source]string{tasks.SourceLedger: "ledger", tasks.SourceFile: "file", tasks.SourceSQL: "database"}

// first yields the first n, and errors before them.
func first(n int64, all iter.Seq2[tasks.Lock, error]) iter.Seq2[tasks.Lock, error] {
	return func(yield func(tasks.Lock, error) bool) {
		if n == 0 {
			return
		}
		left := n
		for l, err := range all {
			if left--; !yield(l, err) || err != nil || left == 0 {
				return
			}
		}
	}
}

func (s *Sweeper) dryRun(ctx context.Context, o Options) (Report, error) {
	r, oldest, err := s.plan(ctx, o)
	if err != nil || o.Each == nil {
		return r, err
	}
	for l, err := range oldest {
		if err != nil {
			return r, err
		}
		o.Each(l)
	}
	return r, nil
}

func (s *Sweeper) sweep(ctx context.Context, o Options) (Report, error) {
	if err := s.tidy(ctx); err != nil {
		return Report{}, err
	}
	began, err := s.Lease.Now(ctx)
	if err != nil {
		return Report{}, err
	}
	last, err := s.Lease.LastDone(ctx, s.Source.Kind())
	if err != nil {
		return Report{}, err
	}
	// A last one that is still to come is of a clock that was set back.
	if !o.Due.IsZero() && !last.Before(o.Due) && !last.After(began) {
		return Report{}, ErrDone
	}
	r, oldest, err := s.plan(ctx, o)
	if err != nil {
		return r, err
	}
	source := zap.String("source", string(r.Source))
	if r.HeldBack > 0 {
		s.Logger.Error("stale locks are held back", source, zap.Int64("held_back", r.HeldBack), zap.Int64("stale", r.Stale), zap.Int64("total", r.Total),
			zap.String("why", r.Why), zap.String("hint", "see that locks are renewed in the "+places[r.Source]+"; locks sweep --dry-run --force lists them, and without --dry-run releases them"))
	}
	if r.Unreadable > 0 {
		s.Logger.Error("locks cannot be read, and stay", source, zap.Int64("unreadable", r.Unreadable), zap.String("first", r.FirstUnreadable))
	}
	if r.Enqueued > 0 {
		if err := s.release(ctx, oldest, &r); err != nil {
			return r, err
		}
	}
	if _, err := s.Source.Drop(ctx, o.Keep); err != nil {
		return r, fmt.Errorf("drop what was swept long ago: %w", err)
	}
	if err := s.Lease.Done(ctx, s.Source.Kind(), began); err != nil {
		return r, err
	}
	s.Logger.Info("swept", source, zap.Int64("stale", r.Stale), zap.Int64("enqueued", r.Enqueued), zap.Int64("held_back", r.HeldBack), zap.String("batch", r.Batch))
	return r, nil
}

// tidy ends the batches of sweeps that were cut short. What they have not reached
// is stale for this one.
func (s *Sweeper) tidy(ctx context.Context) error {
	unfinished, err := s.Lease.Unfinished(ctx)
	if err != nil {
		return err
	}
	for _, id := range unfinished {
		if err := s.Producer.Abandon(ctx, id); err != nil {
			return fmt.Errorf("end the batch of a sweep that was cut short: %w", err)
		}
		if err := s.Lease.Finish(ctx, id); err != nil {
			return err
		}
		s.Logger.Warn("a sweep was cut short; its batch ends as it is", zap.String("batch", id))
	}
	return nil
}

// release enqueues the releases of these locks, and notes them.
func (s *Sweeper) release(ctx context.Context, oldest iter.Seq2[tasks.Lock, error], r *Report) error {
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("name the batch: %w", err)
	}
	r.Batch = "sweep-" + id.String()
	if err := s.Lease.Begin(ctx, r.Batch); err != nil {
		r.Batch, r.Enqueued = "", 0
		return err
	}
	enqueued, err := s.Producer.Releases(ctx, r.Batch, s.releases(oldest))
	if err == nil {
		err = s.Lease.Finish(ctx, r.Batch) // or else the next sweep does
	}
	if r.Enqueued = int64(len(enqueued)); r.Enqueued == 0 {
		r.Batch = "" // all were renewed since they were counted
	}
	// What is enqueued is noted, whatever came after: the end of the sweep, too.
	for len(enqueued) > 0 {
		n := min(sweptAtOnce, len(enqueued))
		page := make([]tasks.Lock, 0, n)
		for _, t := range enqueued[:n] {
			if release, ok := t.(tasks.LockRelease); ok {
				page = append(page, tasks.Lock{UserID: release.UserID, LockID: release.LockID, ExpiresAt: release.Evidence.ExpiredAt})
			}
		}
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), sweptWithin)
		noteErr := s.Source.Swept(limited, page)
		cancel()
		if noteErr != nil {
			return errors.Join(err, fmt.Errorf("note what was swept: %w", noteErr))
		}
		enqueued = enqueued[n:]
	}
	return err
}

// releases yields the tasks for locks.
func (s *Sweeper) releases(oldest iter.Seq2[tasks.Lock, error]) iter.Seq2[tasks.Task, error] {
	return func(yield func(tasks.Task, error) bool) {
		for l, err := range oldest {
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
