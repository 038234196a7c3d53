// Package telemetry sets up OpenTelemetry's SDK for traces, as the standard variables of
// the environment (OTEL_…) say, and exports them by OTLP.
//
// The subcommands call it. It imports OpenTelemetry and zap, and nothing of this module.
// The packages enqueue and worker know only the trace.TracerProvider that it returns.
//
// Traces are off unless OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or
// OTEL_TRACES_EXPORTER=otlp is set. Then nothing of the SDK is made, and nothing runs.
//
// The exporters read their own variables (endpoint, headers, timeout, compression,
// certificates), and the SDK reads its own (OTEL_TRACES_SAMPLER, OTEL_BSP_…,
// OTEL_SPAN_…). OpenTelemetry's package autoexport reads the same variables. It also
// brings the exporters of metrics and logs, a Prometheus server and 100 packages more.
//
// What is wrong with traces never ends a command: the work goes on without them.
package telemetry

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/go-logr/logr/funcr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"
)

// Config says how to trace. The rest is in the environment.
type Config struct {
	// Version is this program's, for the resource.
	Version string
	// Logger gets what the SDK and the exporter complain of. It should be sampled: while a
	// collector is away, they complain of each batch of spans. Required.
	Logger *zap.Logger
	// AlwaysID makes trace IDs even if traces are off, for those who send them along.
	AlwaysID bool
	// FlushTimeout is how long Close waits for the collector.
	FlushTimeout time.Duration
}

// Traces is the SDK, or nothing if traces are off.
type Traces struct {
	provider trace.TracerProvider
	sdk      *sdktrace.TracerProvider
	flush    time.Duration
}

// Start sets traces up. ctx may hold the parent of WithParent. An error says why there
// are no traces although the environment wants them; the Traces are usable then, too.
func Start(ctx context.Context, cfg Config) (*Traces, error) {
	exporter, err := newExporter(ctx)
	t := &Traces{flush: cfg.FlushTimeout}
	switch {
	case exporter != nil:
		complain(cfg.Logger)
		t.sdk = sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(newResource(ctx, cfg)))
		t.provider = t.sdk
	case cfg.AlwaysID:
		t.provider = sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample()))
	case trace.SpanContextFromContext(ctx).IsValid():
		t.provider = noop.NewTracerProvider() // it passes the caller's trace on
	}
	return t, err
}

// Provider returns what makes the spans. It is nil if traces are off.
func (t *Traces) Provider() trace.TracerProvider { return t.provider }

// Close exports the spans that have ended, and waits for at most Config.FlushTimeout.
func (t *Traces) Close() {
	if t.sdk == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), t.flush)
	defer cancel()
	if err := t.sdk.Shutdown(ctx); err != nil {
		otel.Handle(fmt.Errorf("the last spans are lost: %w", err))
	}
}

// WithParent returns a context with the parent that TRACEPARENT and TRACESTATE name, if
// they do. Programs that trace themselves set them for the commands that they run.
func WithParent(ctx context.Context) context.Context {
	carrier := propagation.MapCarrier{"traceparent": os.Getenv("TRACEPARENT"), "tracestate": os.Getenv("TRACESTATE")}
	return propagation.TraceContext{}.Extract(ctx, carrier)
}

// variable returns the first of these variables that is set.
func variable(names ...string) (value string) {
	for _, name := range names {
		if value = strings.TrimSpace(os.Getenv(name)); value != "" {
			break
		}
	}
	return value
}

// newExporter returns nil if traces are off.
func newExporter(ctx context.Context) (sdktrace.SpanExporter, error) {
	if strings.EqualFold(variable("OTEL_SDK_DISABLED"), "true") {
		return nil, nil
	}
	switch exporter := variable("OTEL_TRACES_EXPORTER"); exporter {
	case "none":
		return nil, nil
	case "otlp":
	case "":
		if variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT") == "" {
			return nil, nil
		}
	default:
		return nil, fmt.Errorf("OTEL_TRACES_EXPORTER is %q; want otlp or none", exporter)
	}
	var client otlptrace.Client
	switch protocol := variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"); protocol {
	case "", "http/protobuf":
		client = otlptracehttp.NewClient()
	case "grpc":
		client = otlptracegrpc.NewClient()
	default:
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL is %q; want http/protobuf or grpc", protocol)
	}
	exporter, err := otlptrace.New(ctx, client) // it does not wait for the collector
	if err != nil {
		return nil, fmt.Errorf("the exporter of traces: %w", err)
	}
	return exporter, nil
}

// newResource describes this process. It leaves out the command line, which may name
// users.
func newResource(ctx context.Context, cfg Config) *resource.Resource {
	r, err := resource.New(ctx,
		resource.WithTelemetrySDK(), resource.WithHost(), resource.WithProcessPID(),
		resource.WithAttributes(semconv.ServiceName("kooworker"), semconv.ServiceVersion(cfg.Version)),
		resource.WithFromEnv(), // last, because it counts most
	)
	if err != nil {
		otel.Handle(err) // r has what could be found out
	}
	return r
}

// complain sends to a logger what OpenTelemetry's packages say. They say it in one place
// for the whole process, and to stderr if nobody sets another one.
func complain(log *zap.Logger) {
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		log.Warn("traces are not exported", zap.String("error", firstLine(err.Error())))
	}))
	otel.SetLogger(funcr.New(func(_, text string) { log.Warn("traces", zap.String("detail", text)) }, funcr.Options{Verbosity: 1}))
}

// firstLine keeps a collector, or what stands in its place, from filling the log.
func firstLine(text string) string {
	const most = 300
	text, _, _ = strings.Cut(text, "\n")
	return strings.ToValidUTF8(text[:min(len(text), most)], "")
}
