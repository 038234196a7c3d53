package locks

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"github.com/robfig/cron/v3"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/tasks"
)

// Schedule says when to sweep: one of Every and Cron.
type Schedule struct {
	// Every is the time from one sweep to the next, at least a second.
	Every time.Duration
	// Cron is a specification of five fields, such as "0 3 * * *", or @daily and
	// its like.
	Cron string
	// Location is the time zone of Cron. Default UTC.
	Location *time.Location
}

// ticker is a schedule in use.
type ticker struct {
	spec  string
	cron  cron.Schedule
	every time.Duration // 0 for cron
	loc   *time.Location
}

func (s Schedule) ticker() (ticker, error) {
	t := ticker{loc: s.Location, every: s.Every, spec: s.Cron}
	if t.loc == nil {
		t.loc = time.UTC
	}
	switch {
	case (s.Every != 0) == (s.Cron != ""):
		return t, errors.New("want a time between sweeps, or a cron specification")
	case s.Every != 0 && (s.Every < time.Second || s.Every%time.Second != 0):
		return t, fmt.Errorf("a sweep every %s; want whole seconds, at least one", s.Every)
	case s.Every != 0:
		t.spec = "@every " + s.Every.String()
	}
	var err error
	if t.cron, err = cron.ParseStandard(t.spec); err != nil {
		return t, fmt.Errorf("cron specification %q: %w; want five fields, such as \"0 3 * * *\"", t.spec, err)
	}
	return t, nil
}

// slot names the tick that is due at a time, so that it has one name on every
// replica. Replicas that sweep every so often tick at different moments, since
// each began at its own; but each in every slot.
func (t ticker) slot(at time.Time) time.Time {
	if t.every > 0 {
		return at.Truncate(t.every)
	}
	// The last one that was due, however late this is.
	for _, back := range []time.Duration{time.Minute, time.Hour, 24 * time.Hour, 32 * 24 * time.Hour, 5 * 366 * 24 * time.Hour} {
		last := time.Time{}
		for next := t.cron.Next(at.In(t.loc).Add(-back)); !next.IsZero() && !next.After(at); next = t.cron.Next(next) {
			last = next
		}
		if !last.IsZero() {
			return last
		}
	}
	return at
}

// missed returns the latest tick that was due after last and not after now.
func (t ticker) missed(last, now time.Time) (time.Time, bool) {
	if t.every > 0 {
		return t.slot(now), now.Sub(last) >= t.every && t.slot(now).After(last)
	}
	next := t.cron.Next(last.In(t.loc))
	if next.IsZero() || next.After(now) {
		return time.Time{}, false
	}
	const most = 100_000 // ticks; a month of minutes is half of that
	for range most {
		after := t.cron.Next(next)
		if after.IsZero() || after.After(now) {
			break
		}
		next = after
	}
	return next, true
}

// Scheduler enqueues a sweep at each tick. Every replica may run one: a tick is
// enqueued once over all of them, since it has one task ID, which is kept for a
// while after the sweep is done.
type Scheduler struct {
	rdb    redis.UniversalClient
	client *asynq.Client
	sweep  tasks.LockSweep
	tick   ticker
	log    *zap.Logger
	asynq  asynq.Logger
	now    func() time.Time
}

// SchedulerConfig holds what a Scheduler needs.
type SchedulerConfig struct {
	// Redis stays the caller's to close.
	Redis    redis.UniversalClient
	Schedule Schedule
	// Sweep is what is enqueued.
	Sweep  tasks.LockSweep
	Logger *zap.Logger
	// AsynqLogger receives asynq's own lines.
	AsynqLogger asynq.Logger
}

// NewScheduler checks a configuration and returns a Scheduler.
func NewScheduler(cfg SchedulerConfig) (*Scheduler, error) {
	tick, err := cfg.Schedule.ticker()
	if err != nil {
		return nil, err
	}
	if err := cfg.Sweep.Validate(); err != nil {
		return nil, err
	}
	return &Scheduler{
		rdb: cfg.Redis, client: asynq.NewClientFromRedisClient(cfg.Redis), sweep: cfg.Sweep, tick: tick,
		log: cfg.Logger, asynq: cfg.AsynqLogger, now: time.Now,
	}, nil
}

// ticksKey is a hash: schedule by the ms of its last tick.
const ticksKey = "kooworker:sweep:ticks"

// Run enqueues a sweep at each tick until ctx ends. A tick that was missed while
// nothing ran is caught up at once: one, however many there were.
func (s *Scheduler) Run(ctx context.Context) error {
	payload, err := tasks.Encode(s.sweep, tasks.Intent{})
	if err != nil {
		return err
	}
	if err := s.catchUp(ctx, payload); err != nil {
		return err
	}
	const heartbeat = 2 * time.Second // asynqmon lists what has beaten once
	// The task's own options, which asynq puts before the entry's, and which
	// nobody reads but who enqueues: so the ID can be another one at each tick. One
	// tick at a time has them, from Pre to Post.
	var (
		mu   sync.Mutex
		slot time.Time
		own  = []asynq.Option{asynq.TaskID("")}
	)
	scheduler := asynq.NewSchedulerFromRedisClient(s.rdb, &asynq.SchedulerOpts{
		Location: s.tick.loc, HeartbeatInterval: heartbeat, Logger: s.asynq,
		PreEnqueueFunc: func(*asynq.Task, []asynq.Option) {
			mu.Lock()
			slot = s.tick.slot(s.now())
			own[0] = asynq.TaskID(s.id(slot))
		},
		PostEnqueueFunc: func(_ *asynq.TaskInfo, err error) {
			at := slot
			mu.Unlock()
			s.ticked(context.WithoutCancel(ctx), at, err)
		},
	})
	task := asynq.NewTask(string(s.sweep.Kind()), payload, own...)
	if _, err := scheduler.Register(s.tick.spec, task, s.options()...); err != nil {
		return fmt.Errorf("schedule sweeps: %w", err)
	}
	if err := scheduler.Start(); err != nil {
		return fmt.Errorf("schedule sweeps: %w", err)
	}
	s.log.Info("sweeps are scheduled", zap.String("schedule", s.tick.spec), zap.Stringer("zone", s.tick.loc))
	<-ctx.Done()
	scheduler.Shutdown()
	return nil
}

// id is the task ID of a tick.
func (s *Scheduler) id(slot time.Time) string {
	return tasks.Identity(s.sweep) + ":" + s.tick.spec + ":" + slot.UTC().Format(time.RFC3339)
}

// options of a sweep's task, without its ID.
func (s *Scheduler) options() []asynq.Option {
	const cronKept = 10 * time.Minute // replicas differ by their clocks
	kept := cronKept
	if s.tick.every > 0 {
		kept = s.tick.every + time.Minute
	}
	return []asynq.Option{
		asynq.Queue(s.sweep.Queue()), asynq.MaxRetry(tasks.MaxRetry), asynq.Timeout(tasks.Timeout), asynq.Retention(kept),
	}
}

// ticked notes a tick that is enqueued, by this replica or another.
func (s *Scheduler) ticked(ctx context.Context, slot time.Time, err error) {
	switch {
	case errors.Is(err, asynq.ErrTaskIDConflict):
	case err != nil:
		s.log.Error("a sweep could not be enqueued; the next tick is another chance", zap.Error(err))
		return
	default:
		s.log.Debug("a sweep is enqueued", zap.Time("tick", slot))
	}
	if err := s.note(ctx, slot); err != nil {
		s.log.Warn("the tick could not be noted", zap.Error(err))
	}
}

// noteCmd notes a tick, unless a later one is noted.
//
// KEYS[1] -> kooworker:sweep:ticks
// --
// ARGV[1] -> the schedule
// ARGV[2] -> the tick, in ms
//
// Returns the latest tick that is noted.
var noteCmd = redis.NewScript(`
local last = redis.call("HGET", KEYS[1], ARGV[1])
if last and tonumber(last) >= tonumber(ARGV[2]) then
	return last
end
redis.call("HSET", KEYS[1], ARGV[1], ARGV[2])
return ARGV[2]
`)

func (s *Scheduler) note(ctx context.Context, slot time.Time) error {
	return noteCmd.Run(ctx, s.rdb, []string{ticksKey}, s.tick.spec, slot.UnixMilli()).Err()
}

// catchUp enqueues the last tick that nobody was there for. Of the first start
// there is none.
func (s *Scheduler) catchUp(ctx context.Context, payload []byte) error {
	now := s.now()
	text, err := s.rdb.HGet(ctx, ticksKey, s.tick.spec).Result()
	if errors.Is(err, redis.Nil) {
		if err := s.note(ctx, now); err != nil {
			return fmt.Errorf("note the start of the schedule: %w", err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for missed ticks: %w", err)
	}
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return fmt.Errorf("look for missed ticks: %s holds %q; want a number", ticksKey, text)
	}
	slot, missed := s.tick.missed(time.UnixMilli(ms), now)
	if !missed {
		return nil
	}
	_, err = s.client.EnqueueContext(ctx, asynq.NewTask(string(s.sweep.Kind()), payload), append(s.options(), asynq.TaskID(s.id(slot)))...)
	if err != nil && !errors.Is(err, asynq.ErrTaskIDConflict) {
		return fmt.Errorf("catch up a missed sweep: %w", err)
	}
	if err == nil {
		s.log.Info("a missed sweep is caught up", zap.Time("tick", slot), zap.Time("last", time.UnixMilli(ms)))
	}
	return s.note(ctx, slot)
}
