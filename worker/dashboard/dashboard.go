package dashboard

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/enqueue/batch"
	enqueuelocks "github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/worker/audit"
	"github.com/kooworker/kooworker/worker/bulk"
	"github.com/kooworker/kooworker/worker/dashboard/access"
	"github.com/kooworker/kooworker/worker/dashboard/monitoring"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/forecast"
	"github.com/kooworker/kooworker/worker/locks"
	"github.com/kooworker/kooworker/worker/overview"
)

// Config is what a Dashboard needs.
type Config struct {
	// Redis is closed by the caller.
	Redis  redis.UniversalClient
	Access *access.Access
	// External is the URL by which browsers reach the dashboard behind a proxy; its path is the
	// prefix of all pages. nil: they reach it directly, at the root.
	External *url.URL
	// Grace is for how long a lock must have been expired to count as stale. Default 2 min.
	Grace time.Duration
	// Version is shown at the foot of each page.
	Version string
	Logger  *zap.Logger
	Audit   *audit.Log
}

// Dashboard serves the pages.
type Dashboard struct {
	cfg     Config
	prefix  string // of all paths, such as /kooworker; "" at the root
	handler http.Handler
	pages   map[string]*template.Template

	batches   *batch.Store
	letters   *deadletter.Store
	locks     *enqueuelocks.Store
	forecasts *forecast.Forecaster
	jobs      *bulk.Store
	runner    *bulk.Runner
	shared    *overview.Shared
	asynqmon  *monitoring.Handler
	beside    background
}

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed assets/*
var assetFiles embed.FS

// New returns a Dashboard.
func New(cfg Config) (*Dashboard, error) {
	if cfg.Redis == nil || cfg.Access == nil || cfg.Audit == nil || cfg.Logger == nil {
		return nil, errors.New("dashboard: want Redis, Access, Audit and Logger")
	}
	if cfg.Grace == 0 {
		cfg.Grace = locks.DefaultGrace
	}
	d := &Dashboard{
		cfg: cfg, batches: batch.NewStore(cfg.Redis), letters: deadletter.NewStore(cfg.Redis), locks: enqueuelocks.NewStore(cfg.Redis), forecasts: forecast.New(cfg.Redis), jobs: bulk.NewStore(cfg.Redis),
		shared: overview.NewShared(overview.SharedConfig{Redis: cfg.Redis, Grace: cfg.Grace, Logger: cfg.Logger.Named("overview")}),
	}
	if cfg.External != nil {
		d.prefix = strings.TrimRight(cfg.External.EscapedPath(), "/")
	}
	var err error
	if d.pages, err = d.parse(); err != nil {
		return nil, err
	}
	if d.runner, err = bulk.New(bulk.Config{Redis: cfg.Redis, Logger: cfg.Logger.Named("jobs"), OnEnd: d.auditJob}); err != nil {
		return nil, err
	}
	if d.asynqmon, err = d.newMonitoring(); err != nil {
		return nil, err
	}
	d.handler = d.routes()
	return d, nil
}

// Prefix is the path that all pages have in common, "" if they are at the root.
func (d *Dashboard) Prefix() string { return d.prefix }

// Run does what goes on without a request, until ctx ends: it runs the jobs, and takes its turn at
// reading the overview, of which the charts are made.
func (d *Dashboard) Run(ctx context.Context) {
	d.beside.begin(ctx)
	var running sync.WaitGroup
	running.Go(func() { d.runner.Run(ctx) })
	running.Go(func() { d.shared.Run(ctx) })
	running.Go(func() {
		if err := d.finishCancelling(ctx); err != nil && ctx.Err() == nil {
			d.cfg.Logger.Warn("cannot look for batches whose cancelling is not finished; cancelling one again finishes it", zap.Error(err))
		}
	})
	d.beside.wait(ctx)
	running.Wait()
}

// Close releases what the Dashboard holds, after Run has returned.
func (d *Dashboard) Close() error { return d.asynqmon.Close() }

// routes returns the handler of all paths. A proxy may take the prefix off, or leave it.
func (d *Dashboard) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", healthz)
	guarded := func(pattern string, handler access.Handler) { mux.Handle(pattern, d.cfg.Access.Guard(handler)) }
	for pattern, handler := range map[string]handler{
		"GET /{$}":                   d.now,
		"GET /queues":                d.queues,
		"POST /queues/pause":         d.pauseQueues,
		"POST /queues/resume":        d.resumeQueues,
		"GET /batches":               d.batchList,
		"GET /batches/{id}":          d.batch,
		"GET /batches/{id}/receipts": d.receipts,
		"GET /user":                  d.user,
		"GET /batches/{id}/cancel":   d.confirmCancel,
		"POST /batches/{id}/cancel":  d.cancelBatch,
		"POST /batches/{id}/hold":    d.holdBatch,
		"POST /batches/{id}/release": d.releaseBatch,
		"GET /dead":                  d.dead,
		"GET /dead/replay":           d.confirm(bulk.Replay),
		"POST /dead/replay":          d.order(bulk.Replay),
		"GET /dead/discard":          d.confirm(bulk.Discard),
		"POST /dead/discard":         d.order(bulk.Discard),
		"GET /jobs":                  d.jobList,
		"GET /jobs/{id}":             d.job,
		"POST /jobs/{id}/stop":       d.stopJob,
		"GET /locks":                 d.lockList,
		"POST /locks/sweep":          d.sweepNow,
		"GET /audit":                 d.auditLog,
	} {
		guarded(pattern, d.page(handler))
	}
	notFound := d.page(func(*http.Request, access.User) (reply, error) { return reply{}, errNotFound })
	guarded("/", notFound)
	guarded("GET /assets/{name}", d.asset)
	guarded("/monitoring", d.asynqmon.Serve)
	guarded("/monitoring/", d.asynqmon.Serve)
	// The mux would answer a path such as //dead with a redirect of its own, to a path without
	// the prefix, and before anybody is asked who they are.
	refuse := d.cfg.Access.Guard(notFound)
	site := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := r.URL.Path; p == "" || path.Clean(p) != p && path.Clean(p)+"/" != p {
			refuse.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
	if d.prefix == "" {
		return site
	}
	stripped := http.StripPrefix(d.prefix, site)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch at := r.URL.EscapedPath(); {
		case at == d.prefix:
			http.Redirect(w, r, d.prefix+"/", http.StatusMovedPermanently)
		case strings.HasPrefix(at, d.prefix+"/"):
			stripped.ServeHTTP(w, r)
		default:
			site.ServeHTTP(w, r)
		}
	})
}

// ServeHTTP implements http.Handler.
func (d *Dashboard) ServeHTTP(w http.ResponseWriter, r *http.Request) { d.handler.ServeHTTP(w, r) }

// healthz tells a supervisor that the process serves.
func healthz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintln(w, `{"status":"ok"}`)
}
