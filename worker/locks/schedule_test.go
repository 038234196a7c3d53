package locks

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"go.uber.org/zap"

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
	run := func(d time.Duration) {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		var wg sync.WaitGroup
		for range 5 {
			s, err := NewScheduler(SchedulerConfig{Redis: rdb, Schedule: Schedule{Every: time.Second}, Logger: zap.NewNop(), AsynqLogger: quiet{}})
			if err != nil {
				t.Fatal(err)
			}
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
	run(500 * time.Millisecond)   // too short for a tick of its own
	if after := enqueued(); len(after) != len(before)+1 {
		t.Errorf("%d sweeps were caught up; want one: %v", len(after)-len(before), after)
	}
	infos, err := asynq.NewInspectorFromRedisClient(rdb).ListPendingTasks(tasks.QueueSweep)
	if err != nil || len(infos) == 0 || !strings.HasPrefix(infos[0].ID, "lock:sweep::") || infos[0].Retention < time.Minute {
		t.Errorf("%+v, %v", infos, err)
	}
}

func TestSlots(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	at := func(text string) time.Time {
		tm, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return tm
	}
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
	} {
		tick, err := tc.schedule.ticker()
		if err != nil {
			t.Fatal(err)
		}
		if got := tick.slot(at(tc.at)); !got.Equal(at(tc.want)) {
			t.Errorf("%s at %s: %s; want %s", tick.spec, tc.at, got, tc.want)
		}
	}
	for _, bad := range []Schedule{{}, {Every: time.Second, Cron: "* * * * *"}, {Every: 1500 * time.Millisecond}, {Cron: "x"}, {Every: -time.Second}} {
		if _, err := bad.ticker(); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
	tick, err := Schedule{Cron: "*/10 * * * *"}.ticker()
	if err != nil {
		t.Fatal(err)
	}
	if slot, missed := tick.missed(at("2026-01-31T09:30:00Z"), at("2026-01-31T11:05:00Z")); !missed || !slot.Equal(at("2026-01-31T11:00:00Z")) {
		t.Errorf("missed %s, %t; want the last one", slot, missed)
	}
	if slot, missed := tick.missed(at("2026-01-31T09:30:00Z"), at("2026-01-31T09:39:00Z")); missed {
		t.Errorf("missed %s", slot)
	}
}
