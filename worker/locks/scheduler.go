package locks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
)

// leeway is how far the replicas' clocks may be apart.
const leeway = 5 * time.Minute

// Scheduler enqueues a sweep at each tick. Every replica may run one.
//
// A tick has one task ID, which is kept until the next tick is due, and for the
// leeway beyond: whoever comes first enqueues it, and nobody else can. That holds
// when a process dies between enqueuing a tick and noting it, when Redis' answer
// is lost, and whatever the note says.
//
// The note of the last tick tells whether there is one to catch up: at the start
// the latest that is due, of which another replica may have been about to think,
// and later one that was missed for certain. So a tick at which Redis was away, or
// which asynq has left out, comes late. Without the note, as when Redis has lost
// it, the schedule begins anew, with nothing to catch up.
//
// Ticks are named by the clock of the replica. The one whose clock is ahead
// enqueues them, and the others find them done; if it dies, the next tick is late
// by as much as it was ahead. Clocks that are further apart than the leeway double
// ticks. Sweeps do not overlap even then: the Sweeper has its lease.
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
	if err := s.catchUp(ctx, payload, true); err != nil {
		return err
	}
	const heartbeat = 2 * time.Second // asynqmon lists what has beaten once
	// The task's own options, which asynq puts before the entry's, and which
	// nobody reads but who enqueues: so they can be others at each tick. One tick at
	// a time has them, from Pre to Post.
	var (
		mu  sync.Mutex
		at  time.Time
		own = s.own(time.Time{})
	)
	scheduler := asynq.NewSchedulerFromRedisClient(s.rdb, &asynq.SchedulerOpts{
		Location: s.tick.loc, HeartbeatInterval: heartbeat, Logger: s.asynq,
		PreEnqueueFunc: func(*asynq.Task, []asynq.Option) {
			mu.Lock()
			at = s.now()
			copy(own, s.own(s.tick.slot(at)))
		},
		PostEnqueueFunc: func(_ *asynq.TaskInfo, err error) {
			ticked := at
			mu.Unlock()
			if err := s.ticked(context.WithoutCancel(ctx), ticked, time.Time{}, err); err != nil {
				s.log.Warn("a tick was not enqueued, or not noted; it is seen to when Redis is back", zap.Time("tick", s.tick.slot(ticked)), zap.Error(err))
			}
		},
	})
	task := asynq.NewTask(string(s.sweep.Kind()), payload, own...)
	if _, err := scheduler.Register(s.tick.spec, task, s.options()...); err != nil {
		return fmt.Errorf("schedule sweeps: %w", err)
	}
	if err := scheduler.Start(); err != nil {
		return fmt.Errorf("schedule sweeps: %w", err)
	}
	defer scheduler.Shutdown()
	s.log.Info("sweeps are scheduled", zap.String("schedule", s.tick.name))
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
			if err := s.catchUp(ctx, payload, false); err != nil && ctx.Err() == nil {
				s.log.Warn("missed ticks are not caught up yet", zap.Error(err))
			}
		}
	}
}

// lookEvery is the time between two looks for missed ticks.
const lookEvery = 10 * time.Second

// schedule names the schedule, and what is swept by it. It is a part of task IDs,
// which asynqmon has in its addresses, where a slash would part them.
func (s *Scheduler) schedule() string {
	return string(cmp.Or(s.sweep.Source, tasks.SourceLedger)) + ":" + strings.ReplaceAll(s.tick.name, "/", "|")
}

// id is the task ID of a tick.
func (s *Scheduler) id(slot time.Time) string {
	return string(s.sweep.Kind()) + ":" + s.schedule() + ":" + slot.UTC().Format(time.RFC3339)
}

// TickOf returns the tick that a task's ID names. A sweep that no tick has enqueued
// has none.
func TickOf(taskID string) (tick time.Time, ok bool) {
	const form = "2006-01-02T15:04:05Z"
	if !strings.HasPrefix(taskID, string(tasks.KindLockSweep)+":") || len(taskID) < len(form) {
		return time.Time{}, false
	}
	tick, err := time.Parse(form, taskID[len(taskID)-len(form):])
	return tick, err == nil
}

// own are the options of one tick's task.
func (s *Scheduler) own(slot time.Time) []asynq.Option {
	return []asynq.Option{asynq.TaskID(s.id(slot)), asynq.Retention(s.tick.kept(slot))}
}

// options are those of every tick's.
func (s *Scheduler) options() []asynq.Option {
	return asynqx.QueueOptions(s.sweep.Queue())
}

// ticked notes the tick that was due at a time and is enqueued, by this replica
// or another: err tells. last is the tick that was noted before it was enqueued;
// zero if nobody has looked. Who has enqueued it says whether one was missed: one
// replica, though others may note it sooner.
func (s *Scheduler) ticked(ctx context.Context, at, last time.Time, err error) error {
	if err != nil && !errors.Is(err, asynq.ErrTaskIDConflict) {
		return fmt.Errorf("enqueue a sweep: %w", err)
	}
	slot := s.tick.slot(at)
	if err == nil {
		s.log.Debug("a sweep is enqueued", zap.Time("tick", slot))
	}
	noted, noteErr := s.note(ctx, slot)
	if last.IsZero() {
		last = noted
	}
	if err == nil && last.Before(slot) && s.missed(last, at) {
		s.log.Info("a missed sweep is caught up", zap.Time("tick", slot), zap.Time("last", last))
	}
	return noteErr
}

// missed says whether a tick has passed since the last that is noted.
func (s *Scheduler) missed(last, now time.Time) bool {
	return !last.IsZero() && s.tick.missed(last, now)
}

// noteCmd notes a tick, unless a later one is noted, by a clock that can be
// right.
//
// KEYS[1] -> kooworker:sweep:ticks
// --
// ARGV[1] -> the schedule
// ARGV[2] -> the tick, in ms
// ARGV[3] -> the leeway, in ms
//
// Returns the tick that was noted before, or "".
var noteCmd = redis.NewScript(`
local time = redis.call("TIME")
local last = redis.call("HGET", KEYS[1], ARGV[1]) or ""
local ms = tonumber(last) or 0
if ms < tonumber(ARGV[2]) or ms > time[1] * 1000 + ARGV[3] then
	redis.call("HSET", KEYS[1], ARGV[1], ARGV[2])
end
return last
`)

// note returns what last did before.
func (s *Scheduler) note(ctx context.Context, slot time.Time) (last time.Time, err error) {
	text, err := noteCmd.Run(ctx, s.rdb, []string{ticksKey}, s.schedule(), slot.UnixMilli(), leeway.Milliseconds()).Text()
	if err != nil {
		return time.Time{}, fmt.Errorf("note a tick: %w", err)
	}
	return s.noted(text), nil
}

// last is the latest tick that is noted. It is zero if there is none, or one of a
// clock that was wrong.
func (s *Scheduler) last(ctx context.Context) (time.Time, error) {
	text, err := s.rdb.HGet(ctx, ticksKey, s.schedule()).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return time.Time{}, fmt.Errorf("look for missed ticks: %w", err)
	}
	return s.noted(text), nil
}

func (s *Scheduler) noted(text string) time.Time {
	ms, err := strconv.ParseInt(text, 10, 64)
	if last := time.UnixMilli(ms); err == nil && !last.After(s.now().Add(leeway)) {
		return last
	}
	return time.Time{}
}

// catchUp enqueues the latest tick that is due: at the start if nobody has yet,
// and later if one was missed. When the schedule begins there is none.
func (s *Scheduler) catchUp(ctx context.Context, payload []byte, start bool) error {
	last, err := s.last(ctx)
	if err != nil {
		return err
	}
	now := s.now()
	if last.IsZero() {
		_, err := s.note(ctx, now)
		return err
	}
	slot := s.tick.slot(now)
	if !slot.After(last) || !start && !s.missed(last, now) {
		return nil
	}
	_, err = s.client.EnqueueContext(ctx, asynq.NewTask(string(s.sweep.Kind()), payload), append(s.options(), s.own(slot)...)...)
	return s.ticked(ctx, now, last, err)
}
