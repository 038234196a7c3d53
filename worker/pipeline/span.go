package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/tracing"
	"github.com/kooworker/kooworker/tasks"
)

// attemptSpan is the span of one attempt. The zero value is none.
type attemptSpan struct {
	span   trace.Span
	parent trace.SpanContext // of the attempt, and of the wait before it
	links  []trace.Link
	start  time.Time
}

// startSpan starts the span of an attempt. The context that it returns is for the job and
// for what settles the outcome.
func (p *Pipeline) startSpan(ctx context.Context, d Delivery, job Job, start time.Time) (context.Context, attemptSpan) {
	if p.tracer == nil {
		return ctx, attemptSpan{}
	}
	a := attemptSpan{start: start}
	ctx, a.links = tracing.Continue(ctx, d.Headers, string(d.Kind), d.ID, string(d.Payload))
	a.parent = trace.SpanContextFromContext(ctx)
	ctx, a.span = p.tracer.Start(ctx, spanName("process", job),
		append(a.options(d, job, "process"), trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(semconv.MessagingOperationTypeProcess))...)
	return ctx, a
}

// options are the options of the span of an attempt, and of that of the wait before it.
func (a attemptSpan) options(d Delivery, job Job, operation string) []trace.SpanStartOption {
	queue, lane := tasks.SplitQueue(d.Queue)
	attributes := []attribute.KeyValue{
		semconv.MessagingSystemKey.String(tracing.System), semconv.MessagingOperationName(operation),
		semconv.MessagingDestinationName(queue), attribute.String("kooworker.lane", string(lane)),
		attribute.Int("kooworker.attempt", d.Attempts+1),
	}
	if job.Task != nil {
		attributes = append(attributes, tracing.KindKey.String(string(d.Kind)))
	}
	if ref := job.Intent.BatchRef; ref.IsSet() {
		// The ID of such a task holds a hash, and that of any other the user and the target.
		attributes = append(attributes, semconv.MessagingMessageID(d.ID), tracing.BatchKey.String(ref.Batch), attribute.Int64("kooworker.batch_index", ref.Index))
	}
	if d.Replay {
		attributes = append(attributes, attribute.Bool("kooworker.replay", true))
	}
	return []trace.SpanStartOption{trace.WithTimestamp(a.start), trace.WithLinks(a.links...), trace.WithAttributes(attributes...)}
}

// spanName leaves out a kind that is not known: the names of spans are few.
func spanName(operation string, job Job) string {
	if job.Task == nil {
		return operation
	}
	return operation + " " + string(job.Task.Kind())
}

// traceID returns the ID for the log lines of a delivery, "" if it has none. A worker that
// records no spans takes the producer's.
func (a attemptSpan) traceID(d Delivery) string {
	if a.span == nil {
		return tracing.ParentTrace(d.Headers)
	}
	return a.span.SpanContext().TraceID().String()
}

// endSpan ends the span of an attempt. Before that, it records the wait before it.
func (p *Pipeline) endSpan(ctx context.Context, a attemptSpan, d Delivery, job Job, decision Decision) {
	if a.span == nil || !a.span.IsRecording() {
		return
	}
	end := p.now()
	a.span.SetAttributes(
		attribute.Bool("kooworker.charged", decision.CountsAsAttempt), tracing.ReasonKey.String(string(decision.Reason)),
	)
	if decision.Outcome != "" {
		a.span.SetAttributes(tracing.OutcomeKey.String(string(decision.Outcome)))
	}
	if decision.Action == Retry {
		a.span.SetAttributes(attribute.Float64("kooworker.retry_delay_seconds", decision.Delay.Seconds()))
	}
	if decision.Action == Park || decision.CountsAsAttempt {
		a.span.SetAttributes(semconv.ErrorTypeKey.String(string(decision.Reason)))
		a.span.SetStatus(codes.Error, string(decision.Reason))
	}
	if since := p.waitedSince(ctx, d, job); !since.IsZero() && since.Before(a.start) {
		wait := a
		wait.start = since
		_, span := p.tracer.Start(trace.ContextWithRemoteSpanContext(ctx, a.parent), spanName("wait", job), wait.options(d, job, "wait")...)
		span.End(trace.WithTimestamp(a.start))
	}
	a.span.End(trace.WithTimestamp(end))
}

// lookupTimeout bounds the question since when a task has waited. The outcome of the task is
// decided by then.
const lookupTimeout = time.Second

// waitedSince returns the beginning of the wait before an attempt, zero if it is not known. It
// is when the task was put back, or else when it was enqueued, or could run from.
func (p *Pipeline) waitedSince(ctx context.Context, d Delivery, job Job) time.Time {
	if d.Replay {
		return time.Time{} // the letter has waited for somebody to replay it
	}
	if p.putBackAt != nil {
		ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
		defer cancel()
		putBack, err := p.putBackAt(ctx, d)
		if err != nil {
			return time.Time{} // Redis is away, or the task is gone
		}
		if !putBack.IsZero() {
			return putBack.Add(time.Second) // asynq cuts off the fraction, and no retry is that early
		}
	}
	since := job.Intent.EnqueuedAt
	if due := tracing.Due(d.Headers); due.After(since) {
		since = due
	}
	return since
}

// NewPutBackAt returns a function for Config.PutBackAt. asynq keeps the time in the task's
// message, in whole seconds. An error means that the time is not known.
func NewPutBackAt(rdb redis.UniversalClient) func(context.Context, Delivery) (time.Time, error) {
	return func(ctx context.Context, d Delivery) (time.Time, error) {
		raw, err := rdb.HGet(ctx, asynqx.TaskKey(d.Queue, d.ID), asynqx.FieldMsg).Bytes()
		if errors.Is(err, redis.Nil) {
			return time.Time{}, fmt.Errorf("%s is not in its queue", d.ID)
		}
		if err != nil {
			return time.Time{}, err
		}
		m, err := asynqx.ParseMessage(raw)
		if err != nil || m.LastFailedAt == 0 {
			return time.Time{}, err
		}
		return time.Unix(m.LastFailedAt, 0), nil
	}
}

// traceOfCopy returns the headers for a copy of a task that runs later: the copy belongs to
// the same trace.
func traceOfCopy(ctx context.Context, d Delivery, delay time.Duration) map[string]string {
	headers := tracing.Parent(ctx)
	if headers == nil {
		headers = tracing.Of(d.Headers)
	}
	return tracing.WithDue(headers, time.Now().Add(delay))
}
