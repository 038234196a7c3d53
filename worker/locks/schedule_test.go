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

// Several schedulers over one Redis enqueue each tick once, and after a pause
// catch up once.
func TestSchedulersShareTheirTicks(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	const every = time.Second
	run := func(d time.Duration) {
		<-time.After(time.Until(time.Now().Truncate(every).Add(every))) // a slot begins
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
		t.Errorf("%d sweeps in 4.5 s: %v", len(before), before)
	}
	<-time.After(3 * time.Second) // in which nobody runs
	run(500 * time.Millisecond)   // too short for a second slot
	if after := enqueued(); len(after) != len(before)+1 {
		t.Errorf("%d sweeps were caught up; want one: %v", len(after)-len(before), after)
	}
	infos, err := asynq.NewInspectorFromRedisClient(rdb).ListPendingTasks(tasks.QueueSweep)
	if err != nil || len(infos) == 0 || !strings.HasPrefix(infos[0].ID, "lock:sweep:ledger:@every 1s:") || infos[0].Retention < time.Minute {
		t.Errorf("%+v, %v", infos, err)
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

func mustTicker(t *testing.T, s Schedule) ticker {
	t.Helper()
	tick, err := s.ticker()
	if err != nil {
		t.Fatal(err)
	}
	return tick
}

func TestSlots(t *testing.T) {
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
		if got := mustTicker(t, tc.schedule).slot(at(t, tc.at)); !got.Equal(at(t, tc.want)) {
			t.Errorf("%+v at %s: %s; want %s", tc.schedule, tc.at, got, tc.want)
		}
	}
}

func TestSchedulesThatAreNone(t *testing.T) {
	t.Parallel()
	for _, bad := range []Schedule{
		{}, {Every: time.Second, Cron: "* * * * *"}, {Every: 1500 * time.Millisecond}, {Every: -time.Second},
		{Cron: "x"}, {Cron: " "}, {Cron: "@every 5m"}, {Cron: "0 0 30 2 *"}, {Cron: "TZ=UTC"}, {Cron: "CRON_TZ=Asia/Tokyo 0 3 * * *"},
	} {
		_, err := bad.ticker()
		if err == nil || !strings.Contains(err.Error(), "want") {
			t.Errorf("%+v: %v; want an error that says what would be right", bad, err)
		}
	}
}

// A tick is missed when it has passed with nobody there, and not when another
// replica may be about to enqueue it.
func TestMissedTicks(t *testing.T) {
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
		{Schedule{Every: 5 * time.Minute}, "2026-01-31T09:30:00Z", "2026-01-31T09:39:59Z", false}, // in the next slot
		{Schedule{Every: 5 * time.Minute}, "2026-01-31T09:30:00Z", "2026-01-31T09:40:00Z", true},
		{Schedule{Every: 5 * time.Minute}, "2026-01-31T09:32:17Z", "2026-01-31T09:39:59Z", false}, // after the first start
		{Schedule{Every: 5 * time.Minute}, "2026-01-31T09:32:17Z", "2026-01-31T09:40:00Z", true},
	} {
		if got := mustTicker(t, tc.schedule).missed(at(t, tc.last), at(t, tc.now)); got != tc.missed {
			t.Errorf("%+v after %s at %s: %t", tc.schedule, tc.last, tc.now, got)
		}
	}
}

// A daily sweep runs once on every day, whatever clocks do.
func TestADailySweepRunsOnceADay(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ zone, cron string }{
		{"Europe/Berlin", "30 2 * * *"}, {"Europe/Berlin", "0 2 * * *"}, {"Europe/Berlin", "0 3 * * *"}, {"America/New_York", "59 1 * * *"},
		{"America/Sao_Paulo", "@daily"}, {"America/Santiago", "@daily"}, {"Australia/Lord_Howe", "15 2 * * *"}, {"UTC", "30 2 * * *"},
	} {
		loc := zone(t, tc.zone)
		tick := mustTicker(t, Schedule{Cron: tc.cron, Location: loc})
		asynqs := map[time.Time]bool{} // as asynq's ticks are named
		for asked := time.Date(2018, 1, 1, 12, 0, 0, 0, loc); asked.Year() < 2028; {
			asked = tick.cron.Next(asked)
			asynqs[tick.slot(asked)] = true
		}
		left := 0
		for last, n := tick.next(time.Date(2018, 1, 1, 12, 0, 0, 0, loc)), 2; last.Year() < 2028; n++ {
			if want := time.Date(2018, 1, n, 12, 0, 0, 0, loc); last.In(loc).YearDay() != want.YearDay() {
				t.Fatalf("%s in %s: %s; want one on %s", tc.cron, tc.zone, last, want.Format(time.DateOnly))
			}
			if !asynqs[last] {
				left++
				if !tick.missed(last.Add(-time.Hour), last.Add(time.Minute)) {
					t.Errorf("%s in %s: %s is left out by asynq, and not caught up", tc.cron, tc.zone, last)
				}
			}
			delete(asynqs, last)
			last = tick.next(last)
		}
		t.Logf("%s in %s: asynq leaves %d of ten years' ticks out", tc.cron, tc.zone, left)
		for slot := range asynqs {
			if slot.Year() < 2028 {
				t.Errorf("%s in %s: asynq ticks at %s as well", tc.cron, tc.zone, slot)
			}
		}
	}
}

// Every time is in one slot, in the nights in which clocks are changed, too.
func TestSlotsAndTicksAgree(t *testing.T) {
	t.Parallel()
	berlin := zone(t, "Europe/Berlin")
	for _, s := range []Schedule{
		{Cron: "30 2 * * *"}, {Cron: "*/20 2,3 * * *"}, {Cron: "0 * * * *"}, {Cron: "*/10 * * * *"}, {Cron: "0 */2 * * *"}, {Cron: "5 1-3 * * 0"}, {Every: 7 * time.Minute},
	} {
		s.Location = berlin
		tick := mustTicker(t, s)
		for _, night := range []string{"2026-03-28T20:00:00Z", "2026-10-24T20:00:00Z"} {
			for now := at(t, night); now.Before(at(t, night).Add(12 * time.Hour)); now = now.Add(time.Minute) {
				if slot, next := tick.slot(now), tick.next(now); slot.After(now) || !next.After(now) || !tick.slot(next).Equal(next) || !tick.next(slot).Equal(next) {
					t.Fatalf("%s at %s: in %s, and then %s", tick.name, now, slot, next)
				}
			}
		}
	}
	// What ticks in every hour goes by the time that passes.
	hourly := mustTicker(t, Schedule{Cron: "0 * * * *", Location: berlin})
	if from := at(t, "2026-10-25T00:00:00Z"); !hourly.next(from).Equal(from.Add(time.Hour)) {
		t.Errorf("%s comes after %s", hourly.next(from), from)
	}
}

func newTestScheduler(t *testing.T, rdb redis.UniversalClient, schedule Schedule, source tasks.Source, log *zap.Logger) *Scheduler {
	t.Helper()
	s, err := NewScheduler(SchedulerConfig{Redis: rdb, Schedule: schedule, Sweep: tasks.LockSweep{Source: source}, Logger: log, AsynqLogger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Schedules that differ in their source, their specification or its time zone do
// not take each other's ticks.
func TestSchedulesDoNotTakeEachOthersTicks(t *testing.T) {
	t.Parallel()
	slot := at(t, "2026-01-31T09:30:00Z")
	berlin := zone(t, "Europe/Berlin")
	for _, tc := range []struct {
		schedule Schedule
		source   tasks.Source
		want     string
	}{
		{Schedule{Every: 5 * time.Minute}, "", "lock:sweep:ledger:@every 5m0s:2026-01-31T09:30:00Z"},
		{Schedule{Every: 5 * time.Minute, Location: berlin}, tasks.SourceLedger, "lock:sweep:ledger:@every 5m0s:2026-01-31T09:30:00Z"},
		{Schedule{Every: 5 * time.Minute}, tasks.SourceSQL, "lock:sweep:sql:@every 5m0s:2026-01-31T09:30:00Z"},
		{Schedule{Cron: "30  * * * *"}, tasks.SourceFile, "lock:sweep:file:30 * * * * UTC:2026-01-31T09:30:00Z"},
		{Schedule{Cron: "30 * * * *", Location: berlin}, tasks.SourceFile, "lock:sweep:file:30 * * * * Europe|Berlin:2026-01-31T09:30:00Z"},
	} {
		s := newTestScheduler(t, nil, tc.schedule, tc.source, zap.NewNop())
		if got := s.id(slot); got != tc.want {
			t.Errorf("%s; want %s", got, tc.want)
		}
		if tick, ok := TickOf(tc.want); !ok || !tick.Equal(slot) {
			t.Errorf("%s names the tick %s, %t", tc.want, tick, ok)
		}
		if field := s.schedule(); !strings.Contains(tc.want, ":"+field+":") {
			t.Errorf("the ticks of %s are noted as %s", tc.want, field)
		}
	}
}

// What one look for missed ticks does, with whatever note there is.
func TestLooksForMissedTicks(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	berlin := zone(t, "Europe/Berlin")
	nightly, often := Schedule{Cron: "30 2 * * *", Location: berlin}, Schedule{Every: 5 * time.Minute}
	now := time.Now().UTC().Truncate(5 * time.Minute).Add(time.Minute)
	ago := func(d time.Duration) string { return fmt.Sprint(now.Add(-d).UnixMilli()) }
	noted := func(text string) string { return fmt.Sprint(at(t, text).UnixMilli()) }
	for i, tc := range []struct {
		schedule Schedule
		note     string // "": none
		now      time.Time
		start    bool
		want     string // the tick that is enqueued
		missed   bool
	}{
		{often, "", now, true, "", false},
		{often, ago(time.Minute), now, true, "", false},
		{often, ago(6 * time.Minute), now, true, now.Add(-time.Minute).Format(time.RFC3339), false}, // another replica's tick, perhaps
		{often, ago(6 * time.Minute), now, false, "", false},
		{often, ago(11 * time.Minute), now, true, now.Add(-time.Minute).Format(time.RFC3339), true},
		{often, ago(11 * time.Minute), now, false, now.Add(-time.Minute).Format(time.RFC3339), true},
		{often, ago(1000 * time.Hour), now, true, now.Add(-time.Minute).Format(time.RFC3339), true},
		{often, ago(-time.Minute), now, true, "", false},    // of a clock that is ahead
		{often, ago(-24 * time.Hour), now, true, "", false}, // of one that is wrong
		{nightly, noted("2026-03-28T01:30:00Z"), at(t, "2026-03-29T01:30:10Z"), false, "", false},
		{nightly, noted("2026-03-28T01:30:00Z"), at(t, "2026-03-29T01:31:00Z"), false, "2026-03-29T01:30:00Z", true},
		{nightly, noted("2026-10-25T00:30:00Z"), at(t, "2026-10-25T02:00:00Z"), true, "", false},
	} {
		core, logs := observer.New(zap.InfoLevel)
		s := newTestScheduler(t, rdb, tc.schedule, tasks.SourceSQL, zap.New(core))
		s.now = func() time.Time { return tc.now }
		rdb.FlushDB(t.Context())
		if tc.note != "" {
			rdb.HSet(t.Context(), ticksKey, s.schedule(), tc.note)
		}
		for range 2 { // the second finds nothing to do
			if err := s.catchUp(t.Context(), []byte("{}"), tc.start); err != nil {
				t.Fatal(err)
			}
		}
		var want []string
		if tc.want != "" {
			want = []string{s.id(at(t, tc.want))}
		}
		if got := rdb.LRange(t.Context(), "asynq:{"+tasks.QueueSweep+"}:pending", 0, -1).Val(); !slices.Equal(got, want) {
			t.Errorf("%d: %v are enqueued; want %v", i, got, want)
		}
		if n := logs.FilterMessage("a missed sweep is caught up").Len(); (n == 1) != tc.missed || n > 1 {
			t.Errorf("%d: the log says %d times that a missed sweep is caught up", i, n)
		}
		last, err := s.last(t.Context())
		if err != nil || last.IsZero() || last.After(tc.now.Add(time.Minute)) || want != nil && !last.Equal(at(t, tc.want)) {
			t.Errorf("%d: %s is noted, %v", i, last, err)
		}
	}
}

// A process has died between enqueuing a tick and noting it, and the sweep is
// done.
func TestATickThatWasNotNotedIsNotDoubled(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	core, logs := observer.New(zap.DebugLevel)
	s := newTestScheduler(t, rdb, Schedule{Cron: "@daily"}, "", zap.New(core))
	ctx := t.Context()
	now := time.Now()
	slot := s.tick.slot(now)
	rdb.HSet(ctx, ticksKey, s.schedule(), slot.Add(-48*time.Hour).UnixMilli())
	kept := s.tick.kept(slot)
	if until := slot.Add(kept); until.Before(s.tick.next(now).Add(time.Minute)) {
		t.Errorf("its ID is kept until %s", until)
	}
	done := asynq.NewTask("x", nil, asynq.Queue(tasks.QueueSweep), asynq.TaskID(s.id(slot)), asynq.Retention(kept))
	if _, err := s.client.EnqueueContext(ctx, done); err != nil {
		t.Fatal(err)
	}
	if err := s.catchUp(ctx, []byte("{}"), true); err != nil {
		t.Fatal(err)
	}
	if n := rdb.LLen(ctx, "asynq:{"+tasks.QueueSweep+"}:pending").Val(); n != 1 {
		t.Errorf("%d sweeps of one tick", n)
	}
	if last, err := s.last(ctx); err != nil || !last.Equal(slot) || logs.Len() != 0 {
		t.Errorf("noted %s, %v; logged %v", last, err, logs.All())
	}
}

// Redis is away at a tick.
func TestATickAtWhichRedisWasAwayComesLate(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	rdb := server.Client()
	s := newTestScheduler(t, rdb, Schedule{Cron: "@daily"}, "", zap.NewNop())
	midnight := s.tick.slot(time.Now())
	var clock atomic.Int64 // s after midnight
	clock.Store(-10)
	s.now = func() time.Time { return midnight.Add(time.Duration(clock.Load()) * time.Second) }
	if _, err := s.note(t.Context(), midnight.Add(-24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	<-time.After(500 * time.Millisecond)
	server.Kill()
	if err := s.ticked(t.Context(), midnight, time.Time{}, errors.New("no Redis")); err == nil {
		t.Error("a tick that failed is noted")
	}
	clock.Store(65)
	server.Restart()
	redistest.Eventually(t, 2*lookEvery, "the tick is enqueued", func() bool {
		return rdb.LLen(t.Context(), "asynq:{"+tasks.QueueSweep+"}:pending").Val() == 1
	})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
