package enqueue

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/kooworker/kooworker/internal/tracing"
	"github.com/kooworker/kooworker/tasks"
)

// startSpan starts the span of a task that is enqueued by itself. It returns the headers
// that make the task's attempts its children. Without a tracer the span and the headers
// are nil.
func (c *Client) startSpan(ctx context.Context, t tasks.Task) (context.Context, trace.Span, map[string]string) {
	if c.tracer == nil {
		return ctx, nil, nil
	}
	ctx, span := c.tracer.Start(ctx, "enqueue "+string(t.Kind()), trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
		semconv.MessagingSystemKey.String(tracing.System), semconv.MessagingOperationTypeSend, semconv.MessagingOperationName("enqueue"),
		semconv.MessagingDestinationName(t.Queue()), tracing.KindKey.String(string(t.Kind())),
	))
	return ctx, span, tracing.Parent(ctx)
}

// endSpan ends the span of startSpan.
func endSpan(span trace.Span, res Result, err error) {
	if span == nil {
		return
	}
	if err != nil {
		fail(span, err)
	} else {
		span.SetAttributes(attribute.String("kooworker.status", string(res.Status)))
	}
	span.End()
}

// startBulkSpan starts the span of a bulk. It has one for all tasks, whose attempts link to
// it: a trace of a million tasks could not be read. Without a tracer the span and the
// headers are nil.
func (c *Client) startBulkSpan(ctx context.Context) (context.Context, trace.Span, map[string]string) {
	if c.tracer == nil {
		return ctx, nil, nil
	}
	ctx, span := c.tracer.Start(ctx, "enqueue bulk", trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
		semconv.MessagingSystemKey.String(tracing.System), semconv.MessagingOperationTypeSend, semconv.MessagingOperationName("enqueue"),
	))
	return ctx, span, tracing.Link(ctx)
}

// endBulkSpan ends the span of startBulkSpan.
func endBulkSpan(span trace.Span, res BulkResult, err error) {
	if span == nil {
		return
	}
	span.SetAttributes(
		semconv.MessagingBatchMessageCountKey.Int64(res.Enqueued), attribute.Int64("kooworker.items", res.Total),
		attribute.Int64("kooworker.duplicate", res.Duplicate), attribute.Int64("kooworker.rejected", res.Rejected), attribute.Int64("kooworker.skipped", res.Skipped),
	)
	if res.Batch != "" {
		span.SetAttributes(tracing.BatchKey.String(res.Batch))
	}
	if err != nil {
		fail(span, err)
	}
	span.End()
}

// fail marks a span as failed. The text of an error may name a user, so the span says only
// of what sort it is.
func fail(span trace.Span, err error) {
	sort := "redis"
	switch {
	case errors.Is(err, context.Canceled):
		sort = "canceled"
	case errors.Is(err, context.DeadlineExceeded):
		sort = "timeout"
	case hasType[*tasks.FieldError](err) || hasType[*OptionError](err):
		sort = "invalid"
	case hasType[*InputError](err):
		sort = "input"
	}
	span.SetAttributes(semconv.ErrorTypeKey.String(sort))
	span.SetStatus(codes.Error, sort)
}
