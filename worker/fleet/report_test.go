package fleet

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
)

func TestReadReports(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	ctx := t.Context()
	reports, live, err := ReadReports(ctx, rdb)
	if err != nil || live != 0 || len(reports) != 0 {
		t.Fatalf("no worker: %v, %d live, %v", reports, live, err)
	}

	since := time.Date(2026, 11, 27, 1, 2, 3, 0, time.UTC)
	want := Report{
		Host: "a", PID: 2, Version: "v1", StartedAt: since, Settings: map[string]string{"rate": "5"},
		Stopped: []Stopped{{Call: gate.Unbind, Reason: tasks.Upstream, Since: since}},
		Calls:   map[gate.Kind]float64{gate.Unbind: 2.5}, InFlight: 1, Waiting: 3, Finished: map[tasks.Outcome]int64{tasks.Succeeded: 7}, Problem: "the clock",
	}
	reporting, silent := New(rdb, zap.NewNop()), New(rdb, zap.NewNop())
	running, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan struct{})
	go func() { defer close(done); reporting.Publish(running, func() Report { return want }) }()
	reporting.heartbeat(ctx)
	silent.heartbeat(ctx)
	redistest.Eventually(t, 10*time.Second, "the report is read", func() bool {
		reports, live, err = ReadReports(ctx, rdb)
		return err == nil && len(reports) == 1
	})
	if live != 2 {
		t.Errorf("%d live workers; want 2, the silent one included", live)
	}
	want.ID = reporting.id
	if diff := cmp.Diff([]Report{want}, reports); diff != "" {
		t.Errorf("reports (-want +got):\n%s", diff)
	}

	stop()
	<-done
	if n := rdb.Exists(ctx, reportKey(reporting.id)).Val(); n != 0 {
		t.Error("a worker that has stopped left its report")
	}
}
