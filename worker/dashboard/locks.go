package dashboard

import (
	"context"
	"net/http"
	"slices"

	"github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/internal/humanize"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/audit"
	"github.com/kooworker/kooworker/worker/dashboard/access"
	sweeps "github.com/kooworker/kooworker/worker/locks"
)

// locksPage shows the ledger of locks and the sweeps.
type locksPage struct {
	Counts  locks.Counts
	Sweeps  []locks.Sweep
	Sources []tasks.SourceKind
	Stale   []locks.Lock
	More    bool // there are more stale locks than are shown
	UserID  string
	DryRun  *dryRun
	Grace   string
}

// dryRun is what a sweep of the ledger would do now.
type dryRun struct {
	sweeps.SweepReport
	Locks []tasks.Lock // the first of those that it would release
}

const shownLocks = 100

func (d *Dashboard) lockList(r *http.Request, _ access.User) (reply, error) {
	ctx, query := r.Context(), r.URL.Query()
	p := locksPage{UserID: query.Get("user_id"), Grace: humanize.Duration(d.cfg.Grace)}
	var err error
	if p.Sources, err = d.sources(ctx); err != nil {
		return reply{}, err
	}
	if p.Counts, err = d.locks.Counts(ctx, d.cfg.Grace); err != nil {
		return reply{}, err
	}
	if p.Sweeps, err = d.locks.LastSweeps(ctx); err != nil {
		return reply{}, err
	}
	filter := locks.Filter{UserID: p.UserID, StaleOnly: p.UserID == "", Grace: d.cfg.Grace}
	for lock, err := range d.locks.List(ctx, filter) {
		if err != nil {
			return reply{}, err
		}
		if p.More = len(p.Stale) == shownLocks; p.More {
			break
		}
		p.Stale = append(p.Stale, lock)
	}
	if query.Get("dry_run") != "" {
		if p.DryRun, err = d.dryRun(ctx); err != nil {
			return reply{}, err
		}
	}
	return reply{page: "locks.html", title: "Stale locks", data: p}, nil
}

// dryRun asks what a sweep of the ledger would release, within the usual limits. It changes
// nothing.
func (d *Dashboard) dryRun(ctx context.Context) (*dryRun, error) {
	out := &dryRun{}
	sweeper := sweeps.Sweeper{Source: sweeps.Ledger{Store: d.locks}, Store: d.locks, Batches: d.batches, Logger: d.cfg.Logger}
	report, err := sweeper.Sweep(ctx, sweeps.Options{
		LockSweep: tasks.LockSweep{Source: tasks.SourceLedger, Grace: d.cfg.Grace}, DryRun: true, Keep: sweeps.DefaultKeep,
		Each: func(l tasks.Lock) {
			if len(out.Locks) < shownLocks {
				out.Locks = append(out.Locks, l)
			}
		},
	})
	out.SweepReport = report
	return out, err
}

// sources are those that a worker can sweep: the ledger, and those that a running worker knows.
func (d *Dashboard) sources(ctx context.Context) (known []tasks.SourceKind, err error) {
	for _, source := range tasks.Sources() {
		has := source == tasks.SourceLedger
		if !has {
			if has, err = locks.NewSweptStore(d.cfg.Redis, source).HasWorker(ctx); err != nil {
				return nil, err
			}
		}
		if has {
			known = append(known, source)
		}
	}
	return known, nil
}

// sweepNow enqueues a sweep, which a worker carries out within the usual limits.
func (d *Dashboard) sweepNow(r *http.Request, user access.User) (reply, error) {
	source := tasks.SourceKind(r.PostFormValue("source"))
	sources, err := d.sources(r.Context())
	if err != nil {
		return reply{}, err
	}
	if !slices.Contains(sources, source) {
		return reply{}, badRequest("source: %q; want one that a running worker knows: %v", printable(string(source)), sources)
	}
	reason, err := reasonOf(r)
	if err != nil {
		return reply{}, err
	}
	err = sweeps.Enqueue(r.Context(), d.cfg.Redis, tasks.LockSweep{Source: source, Grace: d.cfg.Grace})
	d.audit(r, user, audit.Entry{Action: "sweep ordered", Subject: string(source), Reason: reason}, err)
	return reply{redirect: "/locks?done=sweep"}, err
}
