// Package demo shows kooworker at work without any setup: it runs a Redis, the
// simulator of KooDrive and a worker in this process, enqueues tasks that succeed
// and fail in different ways, and compares its counts with those of the simulator.
//
// It owns the scenarios, the embedded Redis, the closing table and the dashboard of
// `demo --stay`. The subcommand demo calls Run; a test may call it as well. It joins
// the packages of the module as a user would. Of the command's internal packages it
// imports terminal only.
package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/cmd/kooworker/internal/terminal"
	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/internal/humanize"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker"
	"github.com/kooworker/kooworker/worker/audit"
	"github.com/kooworker/kooworker/worker/dashboard"
	"github.com/kooworker/kooworker/worker/dashboard/access"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/koodrive"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// timeout is how long the demo may take, and a millisecond more for each task.
const timeout = 2 * time.Minute

// Options configure a demo.
type Options struct {
	Tasks int         // how many tasks are enqueued, 60 to 1,000,000
	Stay  bool        // keep everything up, with a dashboard, until the context ends
	Out   io.Writer   // receives the progress, the closing table and, with Stay, what to try
	Log   *zap.Logger // the worker's log; default: none
}

// Validate returns an error of wrong usage, which names the flag.
func (o Options) Validate() error {
	if o.Tasks < 60 || o.Tasks > 1_000_000 {
		return fmt.Errorf("--tasks: %d; want 60 to 1000000", o.Tasks)
	}
	return nil
}

// demo is what runs during a demo.
type demo struct {
	out      io.Writer
	redis    *redisServer
	rdb      redis.UniversalClient
	producer *enqueue.Client
	sim      *simulator.Simulator
	url      string // of the simulator
	observer *observer
}

// Run runs the demo. It returns an error if the counts of the worker, the
// simulator and Redis do not agree. The options must be valid.
func Run(ctx context.Context, o Options) (report Report, err error) {
	unbinds, releases := o.Tasks-o.Tasks/6, o.Tasks/6
	d := &demo{out: o.Out, observer: &observer{report: Report{
		Enqueued: map[tasks.Kind]int{tasks.KindDeviceUnbind: unbinds, tasks.KindLockRelease: releases},
		Finished: map[Result]int{},
	}}}
	if d.redis, err = startRedis(ctx); err != nil {
		return report, err
	}
	defer d.redis.stop()
	d.rdb = d.newClient()
	defer func() { _ = d.rdb.Close() }()
	if d.producer, err = enqueue.New(enqueue.Config{Redis: d.rdb}); err != nil {
		return report, err
	}
	token := fmt.Sprintf("demo-%d", os.Getpid())
	d.sim, err = simulator.New(simulator.Config{
		Auth: simulator.Auth{Mode: simulator.AuthToken, Token: token}, Faults: faults(), Quotas: []simulator.Quota{quota()},
	})
	if err != nil {
		return report, err
	}
	server, err := serve(ctx, d.sim)
	if err != nil {
		return report, err
	}
	defer func() { _ = server.Close() }()
	d.url = "http://" + server.Addr
	w, err := d.newWorker(token, o.Log)
	if err != nil {
		return report, err
	}
	fmt.Fprintf(d.out, "Redis      %s\nKooDrive   simulator at %s, which allows %d calls a second of each kind\nWorker     %s at a time, in this process\n\n",
		d.redis.kind, d.url, allowed, humanize.Count(worker.DefaultConcurrency, "tasks"))

	// The end of ctx ends what the demo plays. The worker and what it needs outlive
	// it, and are stopped in order.
	workerCtx, stopWorker := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWorker()
	workerDone := make(chan error, 1)
	go func() { workerDone <- w.Run(workerCtx) }()
	err = d.play(ctx, o, unbinds, releases)
	stopWorker()
	return d.observer.snapshot(), errors.Join(err, <-workerDone)
}

// play does what the demo shows, in order.
func (d *demo) play(ctx context.Context, o Options, unbinds, releases int) error {
	limited, cancel := context.WithTimeout(ctx, timeout+time.Duration(o.Tasks)*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := d.enqueue(limited, unbinds, releases); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "Enqueued %s and %s in %.1f s.\n", humanize.Count(unbinds, "unbinds"), humanize.Count(releases, "releases"), time.Since(start).Seconds())
	if err := d.await(limited, o.Tasks); err != nil {
		return fmt.Errorf("the demo did not finish: %w", err)
	}
	if err := d.summarize(limited, start); err != nil {
		return err
	}
	if o.Stay {
		return d.stay(ctx, cmp.Or(o.Log, zap.NewNop()))
	}
	return nil
}

// summarize writes the closing table, and compares it with what the simulator and
// Redis have counted.
func (d *demo) summarize(ctx context.Context, start time.Time) error {
	letters := deadletter.NewStore(d.rdb)
	stats, err := letters.Stats(ctx, deadletter.Filter{})
	if err != nil {
		return err
	}
	report, sim := d.observer.snapshot(), d.sim.Stats()
	fmt.Fprintln(d.out)
	if err := report.writeTable(d.out); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "\nThe simulator counted %s and %s. Redis holds %s.\n",
		humanize.Count(sim.Unbound, "unbound devices"), humanize.Count(sim.Released, "released locks"), humanize.Count(stats.Total, "dead letters"))
	fmt.Fprintf(d.out, "Throttled answers: %d. None of them used up an attempt. Time: %.1f s.\n", sim.Throttled, time.Since(start).Seconds())
	for l, err := range letters.List(ctx, deadletter.Filter{Limit: 1}) {
		if err != nil {
			return err
		}
		fmt.Fprintf(d.out, "\nOne of the dead letters:\n  %s\n  %s (after %s)\n", l.ID, l.Error, humanize.Count(l.Attempts, "attempts"))
	}
	agree := sim.Unbound+sim.Released == report.count("", tasks.Succeeded) && stats.Total == report.count("", tasks.Dead)
	for kind, n := range report.Enqueued {
		agree = agree && report.count(kind, "") == n // each task has exactly one outcome
	}
	if !agree {
		return errors.New("the counts do not agree: this is a bug, please report it")
	}
	return nil
}

func (d *demo) newClient() redis.UniversalClient {
	return redis.NewClient(&redis.Options{
		Addr: d.redis.addr, ContextTimeoutEnabled: true, PoolSize: worker.PoolSize(worker.DefaultConcurrency),
	})
}

func (d *demo) newWorker(token string, log *zap.Logger) (*worker.Worker, error) {
	source, err := koodrive.StaticToken(token)
	if err != nil {
		return nil, err
	}
	authorizer, err := koodrive.NewTokenAuthorizer(koodrive.DefaultTokenFormat, source)
	if err != nil {
		return nil, err
	}
	policy := pipeline.DefaultPolicy()
	policy.Backoff = pipeline.Backoff{First: time.Second, Factor: 1, Jitter: 0, Cap: time.Second} // short, since people watch
	return worker.New(worker.Config{
		Releases: d.producer,
		Redis:    d.newClient, KooDrive: koodrive.Config{BaseURL: d.url, Authorizer: authorizer},
		Policy: &policy, Logger: log, Observe: d.observer.observe,
	})
}

// await shows the progress until all tasks have an outcome and the queues are idle.
func (d *demo) await(ctx context.Context, total int) error {
	progress := terminal.StartProgress(d.out, terminal.ProgressOptions{Unit: "done", Total: int64(total), Every: time.Second})
	defer progress.Finish()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		done := d.observer.snapshot().count("", "")
		progress.Set(int64(done))
		if done >= total && d.idle() {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// idle reports whether the work queues are empty and every dead letter is parked.
func (d *demo) idle() bool {
	inspector := asynq.NewInspectorFromRedisClient(d.rdb)
	queues, err := inspector.Queues()
	if err != nil {
		return false
	}
	for _, queue := range queues {
		info, err := inspector.GetQueueInfo(queue)
		if err != nil || info.Pending+info.Active+info.Scheduled > 0 || queue != tasks.QueueDeadLetter && info.Retry > 0 {
			return false
		}
	}
	return true
}

// stay serves the dashboard on loopback, says what to try, and waits until ctx ends.
func (d *demo) stay(ctx context.Context, log *zap.Logger) error {
	door, err := access.New(access.Config{Local: "you", Logger: log})
	if err != nil {
		return err
	}
	pages, err := dashboard.New(dashboard.Config{Redis: d.rdb, Access: door, Logger: log, Audit: audit.New(d.rdb, log)})
	if err != nil {
		return err
	}
	defer func() { _ = pages.Close() }()
	server, err := serve(ctx, pages)
	if err != nil {
		return err
	}
	defer func() { _ = server.Close() }()
	fmt.Fprintf(d.out, `
Dashboard  http://%s
KooDrive   %s
Redis      redis://%[3]s/0

Try, in another terminal:
  kooworker dead stats --redis-url redis://%[3]s/0
  kooworker dead list --limit 5 --redis-url redis://%[3]s/0
  kooworker dead replay --all --redis-url redis://%[3]s/0
  kooworker enqueue unbind --user-id u --device-id d --redis-url redis://%[3]s/0

Press Ctrl-C to end it.
`, server.Addr, d.url, d.redis.addr)
	pages.Run(ctx)
	fmt.Fprintln(d.out, "Stopped.")
	return nil
}

// serve serves HTTP on a free port of loopback until the server is closed. The
// server's Addr is the address.
func serve(ctx context.Context, handler http.Handler) (*http.Server, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &http.Server{Addr: listener.Addr().String(), Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	go func() { _ = server.Serve(listener) }() // ends with an error when the server is closed
	return server, nil
}
