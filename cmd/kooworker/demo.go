package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/koodrive"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
	"github.com/kooworker/kooworker/worker/pipeline"
)

type demoCmd struct {
	Tasks int  `env:"KOOWORKER_DEMO_TASKS" default:"1200" placeholder:"N" help:"Tasks to enqueue, five unbinds to each release (${default})."`
	Stay  bool `env:"KOOWORKER_DEMO_STAY" help:"Keep Redis, the simulator, the worker and a dashboard up until Ctrl-C."`
	Logs  bool `env:"KOOWORKER_DEMO_LOGS" help:"Show the worker's log, on stderr."`
}

const (
	minDemoTasks = 60
	maxDemoTasks = 1_000_000
	demoTimeout  = 2 * time.Minute
)

// demo is everything that runs while the demo does.
type demo struct {
	redis *embeddedRedis
	rdb   redis.UniversalClient
	sim   *simulator.Simulator
	url   string // of the simulator
	tally *tally
}

// Run implements the command.
func (c *demoCmd) Run(a *app) error {
	if c.Tasks < minDemoTasks || c.Tasks > maxDemoTasks {
		return usagef("--tasks: %d; want %d to %d", c.Tasks, minDemoTasks, maxDemoTasks)
	}
	// What a command does is over when Ctrl-C comes; what it has started ends
	// in order afterwards.
	ctx, cancel := context.WithCancel(context.WithoutCancel(a.ctx))
	defer cancel()
	d := &demo{tally: newTally()}
	log := zap.NewNop()
	if c.Logs {
		log = a.flags.Log.logger(a.stderr)
	} else {
		a.flags.Log.quiet(a.stderr)
	}

	var err error
	if d.redis, err = startEmbeddedRedis(a.ctx); err != nil {
		return err
	}
	defer d.redis.stop()
	d.rdb = d.newRedis()
	defer func() { _ = d.rdb.Close() }()
	token, served, err := d.startSimulator(ctx)
	if err != nil {
		return err
	}
	defer func() {
		cancel()
		_ = served.wait()
	}()
	w, err := d.newWorker(token, log)
	if err != nil {
		return err
	}
	say(a.stdout, "Redis      %s\nKooDrive   simulator at %s\nWorker     %d at a time, in this process\n\n", d.redis.what, d.url, worker.DefaultConcurrency)

	workerCtx, stopWorker := context.WithCancel(ctx)
	workerDone := make(chan error, 1)
	go func() { workerDone <- w.Run(workerCtx) }()
	story := d.story(a.ctx, a, c)
	stopWorker()
	return errors.Join(story, <-workerDone)
}

// story is what the demo shows, in order.
func (d *demo) story(ctx context.Context, a *app, c *demoCmd) error {
	limited, cancel := context.WithTimeout(ctx, demoTimeout+time.Duration(c.Tasks)*time.Millisecond)
	defer cancel()
	start := time.Now()
	plan := newDemoPlan(c.Tasks)
	if err := d.enqueue(limited, plan); err != nil {
		return err
	}
	say(a.stdout, "Enqueued %d unbinds and %d releases in %.1f s.\n", plan.unbinds, plan.releases, time.Since(start).Seconds())
	if err := watch(limited, a.stdout, d.tally, c.Tasks, d.settled); err != nil {
		return fmt.Errorf("the demo did not finish: %w", err)
	}
	letters := deadletter.NewStore(d.rdb)
	stats, err := letters.Stats(limited, deadletter.Filter{})
	if err != nil {
		return err
	}
	balances := d.tally.table(a.stdout, plan)
	truth := d.sim.Stats()
	say(a.stdout, "\nThe simulator's own count: %d devices unbound, %d locks released; %d dead letters in Redis.\n", truth.Unbound, truth.Released, stats.Total)
	say(a.stdout, "Throttled answers: %d, none of which used up an attempt. Time: %.1f s.\n", d.tally.throttled.Load(), time.Since(start).Seconds())
	for l, err := range letters.List(limited, deadletter.Filter{Limit: 1}) {
		if err != nil {
			return err
		}
		say(a.stdout, "\nOne of the dead letters:\n  %s\n  %s (after %d attempt)\n", l.ID, l.Error, l.Attempts)
	}
	if !balances || truth.Unbound+truth.Released != d.tally.succeeded() || stats.Total != d.tally.dead() {
		return errors.New("the counts do not agree: this is a bug, please report it")
	}
	if !c.Stay {
		say(a.stdout, "%s", nextCommands)
		return nil
	}
	return d.stay(ctx, a)
}

const nextCommands = `
Next:
  kooworker demo --stay          the same, and then look around
  kooworker worker --help        run it against your Redis and KooDrive
  kooworker enqueue --help       put tasks into the queue
  kooworker dead --help          what failed for good
`

// startSimulator seeds nothing yet; the plan does.
func (d *demo) startSimulator(ctx context.Context) (token string, served *httpService, err error) {
	token = fmt.Sprintf("demo-%d", os.Getpid())
	d.sim, err = simulator.New(simulator.Config{
		Auth:   simulator.Auth{Mode: simulator.AuthToken, Token: token},
		Faults: demoFaults(),
	})
	if err != nil {
		return "", nil, err
	}
	served, err = serveHTTP(ctx, "127.0.0.1:0", d.sim)
	if err != nil {
		return "", nil, err
	}
	d.url = "http://" + served.addr
	return token, served, nil
}

func (d *demo) newRedis() redis.UniversalClient {
	return redis.NewClient(&redis.Options{
		Addr: d.redis.addr, ContextTimeoutEnabled: true, PoolSize: worker.PoolSize(worker.DefaultConcurrency, worker.DefaultPollers),
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
	policy.Backoff = pipeline.Backoff{First: time.Second, Factor: 1, Jitter: 0, Cap: time.Second} // nobody waits for a demo
	producer, err := enqueue.New(enqueue.Config{Redis: d.rdb})
	if err != nil {
		return nil, err
	}
	return worker.New(worker.Config{
		Ledger: batch.NewStore(d.rdb), Producer: producer,
		Redis: d.newRedis, KooDrive: koodrive.Config{BaseURL: d.url, Authorizer: authorizer},
		Policy: &policy, Logger: log, Observer: d.tally,
	})
}

func (d *demo) enqueue(ctx context.Context, plan *demoPlan) error {
	client, err := enqueue.New(enqueue.Config{Redis: d.rdb})
	if err != nil {
		return err
	}
	for t := range plan.tasks(d.sim) {
		res, err := client.Enqueue(ctx, t)
		if err != nil {
			return err
		}
		if res.Status != enqueue.Enqueued {
			return fmt.Errorf("%s is a duplicate", res.ID)
		}
	}
	return nil
}

// settled reports whether nothing is under way any more: the work queues are
// empty, and every dead letter is parked.
func (d *demo) settled() bool {
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

// tally counts what the worker reports.
type tally struct {
	rows      map[rowKey]*atomic.Int64
	finished  atomic.Int64
	throttled atomic.Int64
}

var _ pipeline.Observer = (*tally)(nil)

type rowKey struct {
	kind    tasks.Kind
	outcome tasks.Outcome
	retried bool
}

func newTally() *tally {
	t := &tally{rows: make(map[rowKey]*atomic.Int64)}
	for _, kind := range tasks.Kinds() {
		for _, outcome := range []tasks.Outcome{tasks.Succeeded, tasks.AlreadyGone, tasks.Superseded, tasks.Dead} {
			t.rows[rowKey{kind, outcome, false}] = &atomic.Int64{}
			t.rows[rowKey{kind, outcome, true}] = &atomic.Int64{}
		}
	}
	return t
}

// Observe implements pipeline.Observer.
func (t *tally) Observe(e pipeline.Event) {
	v := e.Decision
	if v.Reason == tasks.Throttled {
		t.throttled.Add(1)
	}
	if v.Action == pipeline.Retry || e.Delivery.Replay {
		return
	}
	retried := v.Outcome == tasks.Succeeded && v.Attempt > 0
	if row := t.rows[rowKey{e.Delivery.Kind, v.Outcome, retried}]; row != nil {
		row.Add(1)
		t.finished.Add(1)
	}
}

func (t *tally) count(kind tasks.Kind, outcome tasks.Outcome, retried bool) int {
	return int(t.rows[rowKey{kind, outcome, retried}].Load())
}

func (t *tally) succeeded() int {
	n := 0
	for _, kind := range tasks.Kinds() {
		n += t.count(kind, tasks.Succeeded, false) + t.count(kind, tasks.Succeeded, true)
	}
	return n
}

func (t *tally) dead() int {
	return t.count(tasks.KindDeviceUnbind, tasks.Dead, false) + t.count(tasks.KindLockRelease, tasks.Dead, false)
}
