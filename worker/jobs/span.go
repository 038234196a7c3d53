package jobs

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/kooworker/kooworker/internal/tracing"
	"github.com/kooworker/kooworker/worker/gate"
)

// recordPermit records in a span how long the gate has held a task, if it has.
func (j *Jobs) recordPermit(ctx context.Context, call gate.Call, began time.Time, permit *gate.Permit, refusal *gate.Refusal) {
	if refusal == nil && permit.Waited() == 0 || !trace.SpanFromContext(ctx).IsRecording() {
		return
	}
	_, span := j.tracer.Start(ctx, "permit "+string(call.Kind), trace.WithTimestamp(began), trace.WithAttributes(attribute.Bool("kooworker.granted", refusal == nil)))
	if refusal != nil {
		span.SetAttributes(tracing.ReasonKey.String(string(refusal.Reason)), attribute.Float64("kooworker.retry_delay_seconds", refusal.Delay.Seconds()))
	}
	span.End()
}
