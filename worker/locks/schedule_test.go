package locks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

// quiet is an asynq.Logger.
type quiet struct{}

func (quiet) Debug(...any) {}
func (quiet) Info(...any)  {}
func (quiet) Warn(...any)  {}
func (quiet) Error(...any) {}
func (quiet) Fatal(...any) {}

// Several schedulers over one Redis enqueue each tick once. After a pause they
// catch up one tick.
func TestScheduler_ReplicasShareTheirTicks(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	const every = time.Second
	run := func(d time.Duration) {
		<-time.After(time.Until(time.Now().Truncate(every).Add(every))) // right after a tick
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		var wg sync.WaitGroup
		for range 5 {
			s := newTestScheduler(t, rdb, Schedule{Every: every}, "", zap.NewNop())
			wg.Go(func() {
				if err := s.Run(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	enqueued := func() []string {
		return rdb.LRange(t.Context(), "asynq:{"+tasks.QueueSweep+"}:pending", 0, -1).Val()
	}
	run(4500 * time.Millisecond)
	before := enqueued()
	if len(before) < 3 || len(before) > 5 {
		t.Errorf("%d sweeps in 4.5 s: %v; want 3 to 5", len(before), before)
	}
	<-time.After(3 * time.Second) // in which nobody runs
	run(500 * time.Millisecond)   // too short for a second tick
	if after := enqueued(); len(after) != len(before)+1 {
		t.Errorf("%d sweeps were caught up; want one: %v", len(after)-len(before), after)
	}
	infos, err := asynq.NewInspectorFromRedisClient(rdb).ListPendingTasks(tasks.QueueSweep)
	if err != nil || len(infos) == 0 || !strings.HasPrefix(infos[0].ID, "lock:sweep:ledger:@every 1s:") || infos[0].Retention < time.Minute {
		t.Errorf("%+v, %v; want task IDs that name the tick, and are retained", infos, err)
	}
}

// at reads a time.
func at(t *testing.T, text string) time.Time {
	t.Helper()
	tm, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return tm
}

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func mustParse(t *testing.T, s Schedule) parsedSchedule {
	t.Helper()
	parsed, err := s.parse()
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func TestTickAt(t *testing.T) {
	t.Parallel()
	berlin := zone(t, "Europe/Berlin")
	for _, tc := range []struct {
		schedule Schedule
		at, want string
	}{
		{Schedule{Every: 2 * time.Second}, "2026-01-31T09:30:01Z", "2026-01-31T09:30:00Z"},
		{Schedule{Cron: "*/10 * * * *"}, "2026-01-31T09:30:00Z", "2026-01-31T09:30:00Z"},
		{Schedule{Cron: "*/10 * * * *"}, "2026-01-31T09:39:59Z", "2026-01-31T09:30:00Z"},
		{Schedule{Cron: "0 3 * * *", Location: berlin}, "2026-01-31T02:00:01Z", "2026-01-31T02:00:00Z"},
		{Schedule{Cron: "0 3 * * *", Location: berlin}, "2026-07-31T01:00:01Z", "2026-07-31T01:00:00Z"},
		{Schedule{Cron: "0 0 29 2 *"}, "2026-01-31T09:30:00Z", "2024-02-29T00:00:00Z"},
		{Schedule{Cron: "30 2 * * *", Location: berlin}, "2026-03-29T01:29:59Z", "2026-03-28T01:30:00Z"},
		{Schedule{Cron: "30 2 * * *", Location: berlin}, "2026-03-29T01:30:00Z", "2026-03-29T01:30:00Z"},
		{Schedule{Cron: "30 2 * * *", Location: berlin}, "2026-10-25T00:30:00Z", "2026-10-25T00:30:00Z"},
		{Schedule{Cron: "30 2 * * *", Location: berlin}, "2026-10-25T01:30:00Z", "2026-10-25T00:30:00Z"},
	} {
		if got := mustParse(t, tc.schedule).tickAt(at(t, tc.at)); !got.Equal(at(t, tc.want)) {
			t.Errorf("%+v at %s: %s; want %s", tc.schedule, tc.at, got, tc.want)
		}
	}
}

func TestParse_InvalidSchedules(t *testing.T) {
	t.Parallel()
	for _, bad := range []Schedule{
		{}, {Every: time.Second, Cron: "* * * * *"}, {Every: 1500 * time.Millisecond}, {Every: -time.Second},
		{Cron: "x"}, {Cron: " "}, {Cron: "@every 5m"}, {Cron: "0 0 30 2 *"}, {Cron: "TZ=UTC"}, {Cron: "CRON_TZ=Asia/Tokyo 0 3 * * *"},
	} {
		_, err := bad.parse()
		if err == nil || !strings.Contains(err.Error(), "want") {
			t.Errorf("%+v: %v; want an error that says what would be right", bad, err)
		}
	}
}

// A tick is missed when it has passed and nobody has enqueued it, but not while
// another replica may be about to enqueue it.
func TestMissed(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		schedule  Schedule
		last, now string
		missed    bool
	}{
		{Schedule{Cron: "*/10 * * * *"}, "2026-01-31T09:30:00Z", "2026-01-31T09:39:00Z", false},
		{Schedule{Cron: "*/10 * * * *"}, "2026-01-31T09:30:00Z", "2026-01-31T09:40:59Z", false},
		{Schedule{Cron: "*/10 * * * *"}, "2026-01-31T09:30:00Z", "2026-01-31T09:41:00Z", true},
		{Schedule{Cron: "*/10 * * * *"}, "2026-01-31T09:30:00Z", "2027-01-31T09:41:00Z", true},
		{Schedule{Cron: "*/10 * * * *"}, "2026-01-31T09:40:00Z", "2026-01-31T09:30:00Z", false},
		{Schedule{Every: 5 * time.Minute}, "2026-01-31T09:30:00Z", "2026-01-31T09:34:59Z", false},
		{Schedule{Every: 5 * time.Minute}, "2026-01-31T09:30:00Z", "2026-01-31T09:39:59Z", false}, // another replica may still enqueue the tick of 09:35
		{Schedule{Every: 5 * time.Minute}, "2026-01-31T09:30:00Z", "2026-01-31T09:40:00Z", true},
		{Schedule{Every: 5 * time.Minute}, "2026-01-31T09:32:17Z", "2026-01-31T09:39:59Z", false}, // after the first start
		{Schedule{Every: 5 * time.Minute}, "2026-01-31T09:32:17Z", "2026-01-31T09:40:00Z", true},
	} {
		if got := mustParse(t, tc.schedule).missed(at(t, tc.last), at(t, tc.now)); got != tc.missed {
			t.Errorf("%+v after %s at %s: missed %t; want %t", tc.schedule, tc.last, tc.now, got, tc.missed)
		}
	}
}

// A daily sweep runs once on every day, also when clocks are changed.
func TestNext_DailyIsOnceADay(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ zone, cron string }{
		{"Europe/Berlin", "30 2 * * *"}, {"Europe/Berlin", "0 2 * * *"}, {"Europe/Berlin", "0 3 * * *"}, {"America/New_York", "59 1 * * *"},
		{"America/Sao_Paulo", "@daily"}, {"America/Santiago", "@daily"}, {"Australia/Lord_Howe", "15 2 * * *"}, {"UTC", "30 2 * * *"},
	} {
		loc := zone(t, tc.zone)
		schedule := mustParse(t, Schedule{Cron: tc.cron, Location: loc})
		asynqs := map[time.Time]bool{} // the ticks at which asynq enqueues
		for asked := time.Date(2018, 1, 1, 12, 0, 0, 0, loc); asked.Year() < 2028; {
			asked = schedule.cron.Next(asked)
			asynqs[schedule.tickAt(asked)] = true
		}
		left := 0
		for last, n := schedule.next(time.Date(2018, 1, 1, 12, 0, 0, 0, loc)), 2; last.Year() < 2028; n++ {
			if want := time.Date(2018, 1, n, 12, 0, 0, 0, loc); last.In(loc).YearDay() != want.YearDay() {
				t.Fatalf("%s in %s: %s; want one on %s", tc.cron, tc.zone, last, want.Format(time.DateOnly))
			}
			if !asynqs[last] {
				left++
				if !schedule.missed(last.Add(-time.Hour), last.Add(time.Minute)) {
					t.Errorf("%s in %s: %s is left out by asynq, and is not missed; want it caught up", tc.cron, tc.zone, last)
				}
			}
			delete(asynqs, last)
			last = schedule.next(last)
		}
		t.Logf("%s in %s: asynq leaves %d of ten years' ticks out", tc.cron, tc.zone, left)
		for tick := range asynqs {
			if tick.Year() < 2028 {
				t.Errorf("%s in %s: asynq ticks at %s as well; want no second tick on a day", tc.cron, tc.zone, tick)
			}
		}
	}
}

// tickAt and next agree about every time, also in nights in which clocks are
// changed.
func TestTickAt_AgreesWithNext(t *testing.T) {
	t.Parallel()
	berlin := zone(t, "Europe/Berlin")
	for _, s := range []Schedule{
		{Cron: "30 2 * * *"}, {Cron: "*/20 2,3 * * *"}, {Cron: "0 * * * *"}, {Cron: "*/10 * * * *"}, {Cron: "0 */2 * * *"}, {Cron: "5 1-3 * * 0"}, {Every: 7 * time.Minute},
	} {
		s.Location = berlin
		schedule := mustParse(t, s)
		for _, night := range []string{"2026-03-28T20:00:00Z", "2026-10-24T20:00:00Z"} {
			for now := at(t, night); now.Before(at(t, night).Add(12 * time.Hour)); now = now.Add(time.Minute) {
				if tick, next := schedule.tickAt(now), schedule.next(now); tick.After(now) || !next.After(now) || !schedule.tickAt(next).Equal(next) || !schedule.next(tick).Equal(next) {
					t.Fatalf("%s at %s: the latest tick is %s, and the next %s; want that they follow each other", schedule.name, now, tick, next)
				}
			}
		}
	}
	// A schedule that ticks in every hour follows the time that passes.
	hourly := mustParse(t, Schedule{Cron: "0 * * * *", Location: berlin})
	if from := at(t, "2026-10-25T00:00:00Z"); !hourly.next(from).Equal(from.Add(time.Hour)) {
		t.Errorf("%s comes after %s; want it an hour later", hourly.next(from), from)
	}
}

func newTestScheduler(t *testing.T, rdb redis.UniversalClient, schedule Schedule, source tasks.SourceKind, log *zap.Logger) *Scheduler {
	t.Helper()
	s, err := NewScheduler(SchedulerConfig{Redis: rdb, Schedule: schedule, Sweep: tasks.LockSweep{Source: source}, Logger: log, AsynqLogger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Schedules that differ in source, specification or time zone have different task
// IDs, so that they do not take each other's ticks.
func TestTaskID_DiffersBySourceAndSchedule(t *testing.T) {
	t.Parallel()
	tick := at(t, "2026-01-31T09:30:00Z")
	berlin := zone(t, "Europe/Berlin")
	for _, tc := range []struct {
		schedule Schedule
		source   tasks.SourceKind
		want     string
	}{
		{Schedule{Every: 5 * time.Minute}, "", "lock:sweep:ledger:@every 5m0s:2026-01-31T09:30:00Z"},
		{Schedule{Every: 5 * time.Minute, Location: berlin}, tasks.SourceLedger, "lock:sweep:ledger:@every 5m0s:2026-01-31T09:30:00Z"},
		{Schedule{Every: 5 * time.Minute}, tasks.SourceSQL, "lock:sweep:sql:@every 5m0s:2026-01-31T09:30:00Z"},
		{Schedule{Cron: "30  * * * *"}, tasks.SourceFile, "lock:sweep:file:30 * * * * UTC:2026-01-31T09:30:00Z"},
		{Schedule{Cron: "30 * * * *", Location: berlin}, tasks.SourceFile, "lock:sweep:file:30 * * * * Europe|Berlin:2026-01-31T09:30:00Z"},
	} {
		s := newTestScheduler(t, nil, tc.schedule, tc.source, zap.NewNop())
		if got := s.taskID(tick); got != tc.want {
			t.Errorf("%s; want %s", got, tc.want)
		}
		if got, ok := TickOf(tc.want); !ok || !got.Equal(tick) {
			t.Errorf("%s names the tick %s, %t; want %s", tc.want, got, ok, tick)
		}
		if field := s.name(); !strings.Contains(tc.want, ":"+field+":") {
			t.Errorf("the ticks of %s are recorded as %s; want a part of the task ID", tc.want, field)
		}
	}
}

// What one check for missed ticks does, whatever tick is recorded.
func TestCatchUp(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	berlin := zone(t, "Europe/Berlin")
	nightly, often := Schedule{Cron: "30 2 * * *", Location: berlin}, Schedule{Every: 5 * time.Minute}
	now := time.Now().UTC().Truncate(5 * time.Minute).Add(time.Minute)
	ago := func(d time.Duration) string { return fmt.Sprint(now.Add(-d).UnixMilli()) }
	ms := func(text string) string { return fmt.Sprint(at(t, text).UnixMilli()) }
	for i, tc := range []struct {
		schedule Schedule
		recorded string // "": none
		now      time.Time
		start    bool
		want     string // the tick that is enqueued
		missed   bool
	}{
		{often, "", now, true, "", false},
		{often, ago(time.Minute), now, true, "", false},
		{often, ago(6 * time.Minute), now, true, now.Add(-time.Minute).Format(time.RFC3339), false}, // another replica may have been about to enqueue it
		{often, ago(6 * time.Minute), now, false, "", false},
		{often, ago(11 * time.Minute), now, true, now.Add(-time.Minute).Format(time.RFC3339), true},
		{often, ago(11 * time.Minute), now, false, now.Add(-time.Minute).Format(time.RFC3339), true},
		{often, ago(1000 * time.Hour), now, true, now.Add(-time.Minute).Format(time.RFC3339), true},
		{often, ago(-time.Minute), now, true, "", false},    // of a clock that is ahead
		{often, ago(-24 * time.Hour), now, true, "", false}, // of one that is wrong
		{nightly, ms("2026-03-28T01:30:00Z"), at(t, "2026-03-29T01:30:10Z"), false, "", false},
		{nightly, ms("2026-03-28T01:30:00Z"), at(t, "2026-03-29T01:31:00Z"), false, "2026-03-29T01:30:00Z", true},
		{nightly, ms("2026-10-25T00:30:00Z"), at(t, "2026-10-25T02:00:00Z"), true, "", false},
	} {
		core, logs := observer.New(zap.InfoLevel)
		s := newTestScheduler(t, rdb, tc.schedule, tasks.SourceSQL, zap.New(core))
		s.now = func() time.Time { return tc.now }
		rdb.FlushDB(t.Context())
		if tc.recorded != "" {
			rdb.HSet(t.Context(), lastTicksKey, s.name(), tc.recorded)
		}
		for range 2 { // the second finds nothing to do
			if err := s.catchUp(t.Context(), tc.start); err != nil {
				t.Fatal(err)
			}
		}
		var want []string
		if tc.want != "" {
			want = []string{s.taskID(at(t, tc.want))}
		}
		if got := rdb.LRange(t.Context(), "asynq:{"+tasks.QueueSweep+"}:pending", 0, -1).Val(); !slices.Equal(got, want) {
			t.Errorf("%d: %v are enqueued; want %v", i, got, want)
		}
		if n := logs.FilterMessage("a missed sweep is caught up").Len(); (n == 1) != tc.missed || n > 1 {
			t.Errorf("%d: the log says %d times that a missed sweep is caught up; want it once: %t", i, n, tc.missed)
		}
		last, err := s.lastTick(t.Context())
		if err != nil || last.IsZero() || last.After(tc.now.Add(time.Minute)) || want != nil && !last.Equal(at(t, tc.want)) {
			t.Errorf("%d: %s is recorded, %v; want the tick that was enqueued", i, last, err)
		}
	}
}

// A process has died after it had enqueued a tick and before it recorded it, and
// the sweep is done.
func TestCatchUp_TickThatWasNotRecorded(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	core, logs := observer.New(zap.DebugLevel)
	s := newTestScheduler(t, rdb, Schedule{Cron: "@daily"}, "", zap.New(core))
	ctx := t.Context()
	now := time.Now()
	tick := s.schedule.tickAt(now)
	rdb.HSet(ctx, lastTicksKey, s.name(), tick.Add(-48*time.Hour).UnixMilli())
	kept := s.schedule.retention(tick)
	if until := tick.Add(kept); until.Before(s.schedule.next(now).Add(time.Minute)) {
		t.Errorf("its ID is kept until %s; want it until after the next tick", until)
	}
	done := asynq.NewTask("x", nil, asynq.Queue(tasks.QueueSweep), asynq.TaskID(s.taskID(tick)), asynq.Retention(kept))
	if _, err := s.client.EnqueueContext(ctx, done); err != nil {
		t.Fatal(err)
	}
	if err := s.catchUp(ctx, true); err != nil {
		t.Fatal(err)
	}
	if n := rdb.LLen(ctx, "asynq:{"+tasks.QueueSweep+"}:pending").Val(); n != 1 {
		t.Errorf("%d sweeps of one tick; want one", n)
	}
	if last, err := s.lastTick(ctx); err != nil || !last.Equal(tick) || logs.Len() != 0 {
		t.Errorf("recorded %s, %v; logged %v; want %s, and nothing logged", last, err, logs.All(), tick)
	}
}

// A tick at which Redis is away comes late.
func TestRun_TickAtWhichRedisWasAway(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	rdb := server.Client()
	s := newTestScheduler(t, rdb, Schedule{Cron: "@daily"}, "", zap.NewNop())
	midnight := s.schedule.tickAt(time.Now())
	var clock atomic.Int64 // s after midnight
	clock.Store(-10)
	s.now = func() time.Time { return midnight.Add(time.Duration(clock.Load()) * time.Second) }
	if _, err := s.recordTick(t.Context(), midnight.Add(-24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	<-time.After(500 * time.Millisecond)
	server.Kill()
	if err := s.recordEnqueued(t.Context(), midnight, time.Time{}, errors.New("no Redis")); err == nil {
		t.Error("no error for a tick that was not enqueued")
	}
	clock.Store(65)
	server.Restart()
	redistest.Eventually(t, 2*catchUpEvery, "the tick is enqueued", func() bool {
		return rdb.LLen(t.Context(), "asynq:{"+tasks.QueueSweep+"}:pending").Val() == 1
	})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
