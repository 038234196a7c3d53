package tracing_test

import (
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/kooworker/kooworker/internal/tracing"
)

// recorder returns a tracer that records all spans.
func recorder() trace.Tracer {
	return tracing.Tracer(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(tracetest.NewSpanRecorder())), "test")
}

func TestParent_MakesAttemptsChildren(t *testing.T) {
	t.Parallel()
	tracer := recorder()
	ctx, producer := tracer.Start(t.Context(), "enqueue")
	headers := tracing.Parent(ctx)
	for i := range 2 {
		ctx, links := tracing.Continue(t.Context(), headers, "kind", "id", "payload")
		_, span := tracer.Start(ctx, "process", trace.WithLinks(links...))
		attempt, ok := span.(sdktrace.ReadOnlySpan)
		if !ok || attempt.Parent().SpanID() != producer.SpanContext().SpanID() || span.SpanContext().TraceID() != producer.SpanContext().TraceID() || len(links) > 0 {
			t.Errorf("attempt %d: %+v, links %v; want a child of %+v without links", i+1, span.SpanContext(), links, producer.SpanContext())
		}
	}
}

// OpenTelemetry's SDK takes a trace ID that has no span. That is how all attempts of a
// task without a producer's span are in one trace.
func TestContinue_OneTraceForAllAttempts(t *testing.T) {
	t.Parallel()
	tracer := recorder()
	ctx, producer := tracer.Start(t.Context(), "enqueue bulk")
	for name, headers := range map[string]map[string]string{"linked": tracing.Link(ctx), "without headers": nil, "unreadable": {"traceparent": "00-x", "kooworker-link": "?"}} {
		attempt := func(order ...string) sdktrace.ReadOnlySpan {
			ctx, links := tracing.Continue(t.Context(), headers, order...)
			_, span := tracer.Start(ctx, "process", trace.WithLinks(links...))
			defer span.End()
			read, ok := span.(sdktrace.ReadOnlySpan)
			if !ok || read.Parent().SpanID().IsValid() {
				t.Fatalf("%s: %+v; want a recorded span without a parent", name, span)
			}
			return read
		}
		first, second := attempt("kind", "id", "payload"), attempt("kind", "id", "payload")
		if first.SpanContext().TraceID() != second.SpanContext().TraceID() || first.SpanContext().SpanID() == second.SpanContext().SpanID() {
			t.Errorf("%s: attempts %+v and %+v; want one trace and two spans", name, first.SpanContext(), second.SpanContext())
		}
		for _, other := range [][]string{{"kind", "id", "payload2"}, {"kind", "idp", "ayload"}} {
			if got := attempt(other...).SpanContext().TraceID(); got == first.SpanContext().TraceID() {
				t.Errorf("%s: another order, %q, has the trace %s, too; want another one", name, other, got)
			}
		}
		links := first.Links()
		if want := name == "linked"; len(links) == 1 != want || want && links[0].SpanContext.SpanID() != producer.SpanContext().SpanID() {
			t.Errorf("%s: links %+v; want one to %+v: %t", name, links, producer.SpanContext(), want)
		}
	}
}

// What was not recorded is no parent of what is, and nothing links to it.
func TestHeaders_NotSampled(t *testing.T) {
	t.Parallel()
	tracer := tracing.Tracer(sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample())), "test")
	ctx, _ := tracer.Start(t.Context(), "enqueue")
	if headers := tracing.Link(ctx); headers != nil {
		t.Errorf("a link to a span that nobody records: %v; want none", headers)
	}
	recording := recorder()
	ctx, _ = tracing.Continue(t.Context(), tracing.Parent(ctx))
	if _, span := recording.Start(ctx, "process"); span.IsRecording() {
		t.Error("the attempt is recorded; want the producer's decision, which was not to")
	}
}

func TestWithDue(t *testing.T) {
	t.Parallel()
	tracer := recorder()
	ctx, _ := tracer.Start(t.Context(), "enqueue")
	headers, due := tracing.Parent(ctx), time.Unix(1_800_000_000, 0)
	if got := tracing.Due(tracing.WithDue(headers, due)); !got.Equal(due) {
		t.Errorf("due %s; want %s", got, due)
	}
	if !tracing.Due(headers).IsZero() || tracing.WithDue(nil, due) != nil {
		t.Errorf("%v and %v; want no time in what has none, and no headers for a task without a trace", tracing.Due(headers), tracing.WithDue(nil, due))
	}
	if of := tracing.Of(tracing.WithDue(headers, due)); len(of) != 1 || of["traceparent"] != headers["traceparent"] {
		t.Errorf("a copy has %v; want %v", of, headers)
	}
}

// Without traces nothing is allocated.
func TestOff_AllocatesNothing(t *testing.T) {
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() {
		if tracing.Parent(ctx) != nil || tracing.Link(ctx) != nil || tracing.WithDue(nil, time.Time{}) != nil || tracing.Of(nil) != nil || tracing.ParentTrace(nil) != "" {
			t.Error("headers without a span; want none")
		}
	}); n != 0 {
		t.Errorf("%v allocations; want 0", n)
	}
}
