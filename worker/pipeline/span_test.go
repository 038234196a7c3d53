package pipeline

import (
	"context"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/internal/tracing"
	"github.com/kooworker/kooworker/tasks"
)

// Without traces an attempt costs nothing more.
func TestSpan_OffAllocatesNothing(t *testing.T) {
	p := &Pipeline{now: time.Now}
	ctx, d, job := t.Context(), Delivery{ID: "id", Queue: tasks.QueueUnbind, Kind: tasks.KindDeviceUnbind}, Job{}
	if n := testing.AllocsPerRun(100, func() {
		ctx, span := p.startSpan(ctx, d, job, time.Time{})
		d.TraceID = span.traceID(d)
		p.endSpan(ctx, span, d, job, Decision{Action: Retry, CountsAsAttempt: true})
	}); n != 0 {
		t.Errorf("%v allocations; want 0", n)
	}
	if d.TraceID != "" {
		t.Errorf("trace ID %q; want none", d.TraceID)
	}
}

// A worker that records no spans logs the producer's trace nevertheless.
func TestSpan_OffTakesTheProducersTrace(t *testing.T) {
	t.Parallel()
	d := Delivery{Headers: map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}
	if got := (attemptSpan{}).traceID(d); got != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("trace ID %q; want the producer's", got)
	}
}

// The copy of a task that asynq would archive is in the same trace. It waits from when it is
// due, and not from when the task was enqueued.
func TestRequeue_KeepsTheTrace(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	spans := tracetest.NewSpanRecorder()
	tracer := tracing.Tracer(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)), "test")
	attempt, span := tracer.Start(t.Context(), "process")
	produced := map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "other": "x"}
	requeue := NewRequeue(asynq.NewClientFromRedisClient(rdb))
	for _, test := range []struct {
		ctx context.Context //nolint:containedctx // of one call
		d   Delivery
	}{
		{t.Context(), Delivery{ID: "a", Headers: produced}},
		{attempt, Delivery{ID: "b", Headers: produced}},
		{t.Context(), Delivery{ID: "c"}},
	} {
		test.d.Kind, test.d.Queue, test.d.Payload = tasks.KindDeviceUnbind, tasks.QueueUnbind, []byte("{}")
		if err := requeue(test.ctx, test.d, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	infos, err := asynq.NewInspectorFromRedisClient(rdb).ListScheduledTasks(tasks.QueueUnbind)
	if err != nil || len(infos) != 3 {
		t.Fatalf("%d copies, %v; want 3", len(infos), err)
	}
	for _, info := range infos {
		want := map[byte]string{'a': "0af7651916cd43dd8448eb211c80319c", 'b': span.SpanContext().TraceID().String(), 'c': ""}[info.ID[0]]
		due := tracing.Due(info.Headers)
		if got := tracing.ParentTrace(info.Headers); got != want || due.IsZero() != (want == "") || !due.IsZero() && time.Until(due) < 50*time.Minute {
			t.Errorf("copy %s is in trace %q and due at %s; want %q, in an hour", info.ID, got, due, want)
		}
		if _, ok := info.Headers["other"]; ok {
			t.Errorf("copy %s has headers %v; want none that are not about the trace", info.ID, info.Headers)
		}
	}
}

func TestPutBackAt(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	if _, err := asynq.NewClientFromRedisClient(rdb).Enqueue(asynq.NewTask("kind", nil), asynq.TaskID("a")); err != nil {
		t.Fatal(err)
	}
	putBackAt, d := NewPutBackAt(rdb), Delivery{ID: "a", Queue: "default"}
	if at, err := putBackAt(t.Context(), d); err != nil || !at.IsZero() {
		t.Errorf("%s, %v; want no time for a task that was never put back", at, err)
	}
	key, failed := asynqx.TaskKey("default", "a"), time.Unix(1_800_000_000, 0)
	raw, err := rdb.HGet(t.Context(), key, asynqx.FieldMsg).Bytes()
	if err == nil {
		raw, err = asynqx.RewriteFailure(raw, 1, "upstream", failed)
	}
	if err == nil {
		err = rdb.HSet(t.Context(), key, asynqx.FieldMsg, raw).Err()
	}
	if err != nil {
		t.Fatal(err)
	}
	if at, err := putBackAt(t.Context(), d); err != nil || !at.Equal(failed) {
		t.Errorf("%s, %v; want %s", at, err, failed)
	}
	if _, err := putBackAt(t.Context(), Delivery{ID: "b", Queue: "default"}); err == nil {
		t.Error("a task that is gone has a time; want an error")
	}
}
