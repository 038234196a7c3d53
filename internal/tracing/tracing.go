// Package tracing holds how a trace travels with a task: in the headers of its message,
// from the producer to each attempt, in whichever process that runs. It also holds the
// names that spans and attributes have in common.
//
// The packages enqueue, worker/pipeline, worker/jobs and worker/recovery call it. It imports
// OpenTelemetry's API, and neither its SDK nor anything of this module: the program that
// uses them decides whether and where spans go, by the trace.TracerProvider that it
// passes on.
//
// Nothing else of this module travels in the values of a context. A span does, because
// that is how OpenTelemetry's API hands a parent to its children, and because the calls
// of KooDrive are deep below the attempt. The context that holds a span begins in
// enqueue.Client or in the pipeline, and ends there.
//
// A span tells nothing of users: neither their ids, nor those of their devices and locks,
// nor the text of an answer, which may quote them. Traces often go to other machines, and
// to other people, than the queue and its logs. The log lines of a task have its trace_id,
// and lead from a trace to the task.
package tracing

import (
	"context"
	"crypto/sha256"
	"maps"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// The headers of a task's message.
const (
	// parentHeader and stateHeader are those of the W3C's Trace Context. They make the
	// attempts children of the span of the one who enqueued the task.
	parentHeader = "traceparent"
	stateHeader  = "tracestate"
	// linkHeader has the form of parentHeader. The attempts belong to a trace of the task's
	// own, and link to that span, which has enqueued many tasks.
	linkHeader = "kooworker-link"
	// dueHeader is the Unix time in seconds from which the task may run, if it is later
	// than the time at which it was enqueued.
	dueHeader = "kooworker-due"
)

// The attributes that several packages set, besides those of OpenTelemetry's semantic
// conventions.
const (
	KindKey    = attribute.Key("kooworker.kind")
	BatchKey   = attribute.Key("kooworker.batch")
	ReasonKey  = attribute.Key("kooworker.reason")
	OutcomeKey = attribute.Key("kooworker.outcome")
)

// System is the value of the attribute messaging.system.
const System = "asynq"

// Tracer returns the tracer of a package of this module, or nil if there is no provider.
func Tracer(p trace.TracerProvider, pkg string) trace.Tracer {
	if p == nil {
		return nil
	}
	return p.Tracer("github.com/kooworker/kooworker/" + pkg)
}

// Parent returns the headers of a task whose attempts are children of the span in ctx.
// They are nil if there is none.
func Parent(ctx context.Context) map[string]string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return nil
	}
	headers := make(propagation.MapCarrier, 3) //nolint:mnd // with dueHeader
	propagation.TraceContext{}.Inject(ctx, headers)
	return headers
}

// Link returns the headers of tasks whose attempts link to the span in ctx. They are nil
// if that span is not recorded: nobody could follow the link.
func Link(ctx context.Context) map[string]string {
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		return nil
	}
	return map[string]string{linkHeader: Parent(ctx)[parentHeader]}
}

// WithDue returns headers of Parent or Link that also say from when on the task may run.
func WithDue(headers map[string]string, due time.Time) map[string]string {
	if headers == nil {
		return nil
	}
	headers = maps.Clone(headers)
	headers[dueHeader] = strconv.FormatInt(due.Unix(), 10)
	return headers
}

// Of returns those headers of a task that are about its trace, for a copy of the task. They
// are nil if there are none.
func Of(headers map[string]string) map[string]string {
	var own map[string]string
	for _, name := range []string{parentHeader, stateHeader, linkHeader} {
		if value, ok := headers[name]; ok {
			if own == nil {
				own = make(map[string]string)
			}
			own[name] = value
		}
	}
	return own
}

// Due returns the time of WithDue, zero if the headers have none.
func Due(headers map[string]string) time.Time {
	seconds, err := strconv.ParseInt(headers[dueHeader], 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}

// Continue returns a context in which spans belong to the trace of a task: as children
// of the span that has enqueued it, or without a parent and with links. order tells the
// order from all others. It is the same at each attempt, so all attempts have one trace.
func Continue(ctx context.Context, headers map[string]string, order ...string) (context.Context, []trace.Link) {
	if parent := remote(headers[parentHeader], headers[stateHeader]); parent.IsValid() {
		return trace.ContextWithRemoteSpanContext(ctx, parent), nil
	}
	// A span context without a span is no parent. OpenTelemetry's SDK takes its trace ID
	// nevertheless, and the sampler decides as for any new trace.
	ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{TraceID: idOf(order)}))
	if producer := remote(headers[linkHeader], ""); producer.IsValid() {
		return ctx, []trace.Link{{SpanContext: producer}}
	}
	return ctx, nil
}

// ParentTrace returns the ID of the trace that the headers name, or "". It is for the
// log lines of a worker that records no spans.
func ParentTrace(headers map[string]string) string {
	if headers[parentHeader] == "" {
		return ""
	}
	if parent := remote(headers[parentHeader], ""); parent.IsValid() {
		return parent.TraceID().String()
	}
	return ""
}

// remote reads a span context. It is not valid if the text is not.
func remote(parent, state string) trace.SpanContext {
	if parent == "" {
		return trace.SpanContext{}
	}
	carrier := propagation.MapCarrier{parentHeader: parent, stateHeader: state}
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), carrier))
}

// idOf returns the trace ID of an order.
func idOf(order []string) (id trace.TraceID) {
	hash := sha256.New()
	for _, part := range order {
		hash.Write([]byte(strconv.Itoa(len(part)) + ":" + part))
	}
	copy(id[:], hash.Sum(nil))
	return id
}
