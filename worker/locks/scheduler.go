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

// maxClockSkew is how far the replicas' clocks may be apart.
const maxClockSkew = 5 * time.Minute

// Scheduler enqueues a sweep at each tick. Every replica may run one.
//
// A tick has one task ID. asynq keeps it until the next tick is due, and for
// maxClockSkew beyond. The first replica enqueues the task, and the others get a
// conflict. This holds if a process dies after it has enqueued a tick and before
// it has recorded it, if Redis' answer is lost, and whatever the record says.
//
// The record of the last tick tells whether there is a tick to catch up. When a
// Scheduler starts it enqueues the latest tick that is due if that is not recorded:
// another replica may have been about to enqueue it. Later it enqueues only a tick
// that was certainly missed. So a tick at which Redis was away, or which asynq has
// left out, comes late. If there is no record, as when Redis has lost it, the
// schedule begins anew, and there is nothing to catch up.
//
// Ticks are named by the clock of the replica. The replica whose clock is ahead
// enqueues them, and the others find them enqueued. If that replica dies, the next
// tick is late by as much as its clock was ahead. Clocks that are further apart
// than maxClockSkew double ticks. Even then sweeps do not overlap: the Sweeper has
// its lease.
type Scheduler struct {
	cfg      SchedulerConfig
	client   *asynq.Client
	schedule parsedSchedule
	payload  []byte // of each tick's task
	now      func() time.Time
}

// SchedulerConfig is what a Scheduler needs.
type SchedulerConfig struct {
	// Redis is closed by the caller.
	Redis    redis.UniversalClient
	Schedule Schedule
	// Sweep is the task that is enqueued.
	Sweep  tasks.LockSweep
	Logger *zap.Logger
	// AsynqLogger receives asynq's own lines.
	AsynqLogger asynq.Logger
}

// NewScheduler checks a configuration and returns a Scheduler.
func NewScheduler(cfg SchedulerConfig) (*Scheduler, error) {
	schedule, err := cfg.Schedule.parse()
	if err != nil {
		return nil, err
	}
	payload, err := tasks.Encode(cfg.Sweep, tasks.Intent{})
	if err != nil {
		return nil, err
	}
	return &Scheduler{cfg: cfg, client: asynq.NewClientFromRedisClient(cfg.Redis), schedule: schedule, payload: payload, now: time.Now}, nil
}

// lastTicksKey is a hash: schedule by the ms of its last tick.
const lastTicksKey = "kooworker:sweep:ticks"

// catchUpEvery is the time between two checks for missed ticks.
const catchUpEvery = 10 * time.Second

// Run enqueues a sweep at each tick until ctx ends. If ticks were missed while no
// Scheduler ran, it enqueues one of them at once, however many there were.
func (s *Scheduler) Run(ctx context.Context) error {
	if err := s.catchUp(ctx, true); err != nil {
		return err
	}
	const heartbeat = 2 * time.Second // asynqmon lists a scheduler after its first heartbeat
	// Task ID and retention differ at each tick, but asynq wants the options when the
	// schedule is registered. So the options are those of the task itself: asynq puts
	// them before those of the entry, reads them only when it enqueues, and they can
	// be overwritten before. mu is locked from PreEnqueueFunc to PostEnqueueFunc, so
	// that one tick at a time has them.
	var (
		mu      sync.Mutex
		at      time.Time
		options = s.tickOptions(time.Time{})
	)
	scheduler := asynq.NewSchedulerFromRedisClient(s.cfg.Redis, &asynq.SchedulerOpts{
		Location: s.schedule.loc, HeartbeatInterval: heartbeat, Logger: s.cfg.AsynqLogger,
		PreEnqueueFunc: func(*asynq.Task, []asynq.Option) {
			mu.Lock()
			at = s.now()
			copy(options, s.tickOptions(s.schedule.tickAt(at)))
		},
		PostEnqueueFunc: func(_ *asynq.TaskInfo, err error) {
			enqueuedAt := at
			mu.Unlock()
			if err := s.recordEnqueued(context.WithoutCancel(ctx), enqueuedAt, time.Time{}, err); err != nil {
				s.cfg.Logger.Warn("a tick was not enqueued or not recorded; the scheduler tries again when Redis is back", zap.Time("tick", s.schedule.tickAt(enqueuedAt)), zap.Error(err))
			}
		},
	})
	_, err := scheduler.Register(s.schedule.spec, s.task(options...), asynqx.QueueOptions(s.cfg.Sweep.Queue())...)
	if err == nil {
		err = scheduler.Start()
	}
	if err != nil {
		return fmt.Errorf("schedule sweeps: %w", err)
	}
	defer scheduler.Shutdown()
	s.cfg.Logger.Info("sweeps are scheduled", zap.String("schedule", s.schedule.name))
	check := time.NewTicker(catchUpEvery)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-check.C:
			if err := s.catchUp(ctx, false); err != nil && ctx.Err() == nil {
				s.cfg.Logger.Warn("missed ticks are not caught up yet", zap.Error(err))
			}
		}
	}
}

// name names the source and the schedule. It is part of task IDs, which asynqmon
// has in its URLs; there a slash would separate.
func (s *Scheduler) name() string {
	return string(cmp.Or(s.cfg.Sweep.Source, tasks.SourceLedger)) + ":" + strings.ReplaceAll(s.schedule.name, "/", "|")
}

// taskID is the task ID of a tick.
func (s *Scheduler) taskID(tick time.Time) string {
	return string(s.cfg.Sweep.Kind()) + ":" + s.name() + ":" + tick.UTC().Format(time.RFC3339)
}

// TickOf returns the tick that the ID of a sweep's task names. A sweep that was not
// enqueued by a Scheduler has none.
func TickOf(taskID string) (tick time.Time, ok bool) {
	const layout = "2006-01-02T15:04:05Z"
	if !strings.HasPrefix(taskID, string(tasks.KindLockSweep)+":") || len(taskID) < len(layout) {
		return time.Time{}, false
	}
	tick, err := time.Parse(layout, taskID[len(taskID)-len(layout):])
	return tick, err == nil
}

// tickOptions are the options of one tick's task.
func (s *Scheduler) tickOptions(tick time.Time) []asynq.Option {
	return []asynq.Option{asynq.TaskID(s.taskID(tick)), asynq.Retention(s.schedule.retention(tick))}
}

func (s *Scheduler) task(options ...asynq.Option) *asynq.Task {
	return asynq.NewTask(string(s.cfg.Sweep.Kind()), s.payload, options...)
}

// recordEnqueued records the tick that was due at a time, if it is enqueued: err is
// nil if this replica has enqueued it, and a conflict if another has. It returns any
// other err. last is the tick that was recorded before the attempt, or zero if that
// is not known. Only the replica that enqueued the tick logs that a tick was missed,
// even if another replica recorded it first.
func (s *Scheduler) recordEnqueued(ctx context.Context, at, last time.Time, err error) error {
	if err != nil && !errors.Is(err, asynq.ErrTaskIDConflict) {
		return fmt.Errorf("enqueue a sweep: %w", err)
	}
	tick := s.schedule.tickAt(at)
	if err == nil {
		s.cfg.Logger.Debug("a sweep is enqueued", zap.Time("tick", tick))
	}
	recorded, recordErr := s.recordTick(ctx, tick)
	if last.IsZero() {
		last = recorded
	}
	if err == nil && last.Before(tick) && s.schedule.missed(last, at) {
		s.cfg.Logger.Info("a missed sweep is caught up", zap.Time("tick", tick), zap.Time("last", last))
	}
	return recordErr
}

// recordTickCmd records a tick, unless a later one is recorded. A recorded tick that
// is too far in the future comes from a clock that was wrong, and does not count.
//
// KEYS[1] -> kooworker:sweep:ticks
// --
// ARGV[1] -> the schedule
// ARGV[2] -> the tick, in ms
// ARGV[3] -> maxClockSkew, in ms
//
// Returns the tick that was recorded before, or "". It takes effect as a whole.
var recordTickCmd = redis.NewScript(`
local time = redis.call("TIME")
local last = redis.call("HGET", KEYS[1], ARGV[1]) or ""
local ms = tonumber(last) or 0
if ms < tonumber(ARGV[2]) or ms > time[1] * 1000 + ARGV[3] then
	redis.call("HSET", KEYS[1], ARGV[1], ARGV[2])
end
return last
`)

// recordTick records a tick, and returns the tick that was recorded before.
func (s *Scheduler) recordTick(ctx context.Context, tick time.Time) (last time.Time, err error) {
	text, err := recordTickCmd.Run(ctx, s.cfg.Redis, []string{lastTicksKey}, s.name(), tick.UnixMilli(), maxClockSkew.Milliseconds()).Text()
	if err != nil {
		return time.Time{}, fmt.Errorf("record a tick: %w", err)
	}
	return s.parseTick(text), nil
}

// lastTick returns the latest tick that is recorded; zero if there is none, or if
// it comes from a clock that was wrong.
func (s *Scheduler) lastTick(ctx context.Context) (time.Time, error) {
	text, err := s.cfg.Redis.HGet(ctx, lastTicksKey, s.name()).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return time.Time{}, fmt.Errorf("check for missed ticks: %w", err)
	}
	return s.parseTick(text), nil
}

func (s *Scheduler) parseTick(text string) time.Time {
	ms, err := strconv.ParseInt(text, 10, 64)
	if last := time.UnixMilli(ms); err == nil && !last.After(s.now().Add(maxClockSkew)) {
		return last
	}
	return time.Time{}
}

// catchUp enqueues the latest tick that is due if it has to be caught up: Scheduler
// says when. start is true for the first call of a Run.
func (s *Scheduler) catchUp(ctx context.Context, start bool) error {
	last, err := s.lastTick(ctx)
	if err != nil {
		return err
	}
	now := s.now()
	if last.IsZero() { // the schedule begins
		_, err := s.recordTick(ctx, now)
		return err
	}
	tick := s.schedule.tickAt(now)
	if !tick.After(last) || !start && !s.schedule.missed(last, now) {
		return nil
	}
	_, err = s.client.EnqueueContext(ctx, s.task(), append(asynqx.QueueOptions(s.cfg.Sweep.Queue()), s.tickOptions(tick)...)...)
	return s.recordEnqueued(ctx, now, last, err)
}

// Enqueue enqueues a sweep that somebody has ordered by hand. It belongs to no tick.
func Enqueue(ctx context.Context, rdb redis.UniversalClient, sweep tasks.LockSweep) error {
	payload, err := tasks.Encode(sweep, tasks.Intent{})
	if err != nil {
		return err
	}
	_, err = asynq.NewClientFromRedisClient(rdb).EnqueueContext(ctx, asynq.NewTask(string(sweep.Kind()), payload), asynqx.QueueOptions(sweep.Queue())...)
	if err != nil {
		return fmt.Errorf("enqueue a sweep: %w", err)
	}
	return nil
}
