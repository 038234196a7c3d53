package koodrive

import (
	"context"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/kooworker/kooworker/tasks"
)

// serverAttributes are what the spans of all exchanges have in common. base has the form
// that checkBaseURL returns.
func serverAttributes(base string) trace.SpanStartEventOption {
	u, err := url.Parse(base)
	if err != nil {
		return trace.WithAttributes()
	}
	attributes := []attribute.KeyValue{semconv.ServerAddress(u.Hostname())}
	port, err := strconv.Atoi(u.Port())
	switch {
	case err == nil:
	case u.Scheme == "https":
		port = 443
	default:
		port = 80
	}
	return trace.WithAttributes(append(attributes, semconv.ServerPort(port))...)
}

// startSpan starts the span of an exchange, and tells the server of the trace if
// Config.TraceHeader is set. It returns nil if there is no tracer, or if ctx has no
// parent: a call outside any task, such as a check whether KooDrive works, has no trace.
//
// The span has no URL, since that names the device.
func (c *Client) startSpan(ctx context.Context, req *http.Request, call call) trace.Span {
	if c.tracer == nil || !trace.SpanContextFromContext(ctx).IsValid() {
		return nil
	}
	_, span := c.tracer.Start(ctx, call.method+" "+call.route, trace.WithSpanKind(trace.SpanKindClient), c.serverAttributes,
		trace.WithAttributes(semconv.HTTPRequestMethodKey.String(call.method), semconv.URLTemplate(call.route)))
	if c.traceHeader != "" {
		req.Header.Set(c.traceHeader, traceHeader(c.traceHeader, span.SpanContext()))
	}
	return span
}

// traceHeader returns the value of Config.TraceHeader. For Traceparent it has the form of
// the W3C's Trace Context. For any other header it is the ID of the trace, 32 hexadecimal
// digits, then that of the span, 16 of them, and "-kooworker". KooDrive's X-Traceid must
// have exactly 58 characters, and so it has. What is in them KooDrive does not document.
func traceHeader(name string, sc trace.SpanContext) string {
	if name == "Traceparent" {
		return "00-" + sc.TraceID().String() + "-" + sc.SpanID().String() + "-" + sc.TraceFlags().String()
	}
	return sc.TraceID().String() + sc.SpanID().String() + "-kooworker"
}

// endSpan ends the span of an exchange. The reason is in it, and the text of the answer is
// not, because that may name a user.
func endSpan(span trace.Span, a Answer) {
	if span == nil {
		return
	}
	span.SetAttributes(attribute.String("kooworker.reason", string(a.Reason)))
	if a.Status != 0 {
		span.SetAttributes(semconv.HTTPResponseStatusCode(a.Status))
	}
	if a.Code != "" {
		span.SetAttributes(attribute.String("kooworker.code", a.Code))
	}
	if a.Reason != tasks.OK && a.Reason != tasks.Gone {
		span.SetAttributes(semconv.ErrorTypeKey.String(string(a.Reason)))
		span.SetStatus(codes.Error, string(a.Reason))
	}
	span.End()
}

// checkTraceHeader returns the canonical name of Config.TraceHeader.
func checkTraceHeader(name string) (string, error) {
	if strings.Trim(name, "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return "", fmt.Errorf("trace header %q is no name of a header; want one such as X-Traceid", name)
	}
	name = textproto.CanonicalMIMEHeaderKey(name)
	switch name {
	case "Authorization", "X-User-Id", "X-Date", "X-Backup-Lock-Id", "X-Apig-Mode", "Host", "User-Agent", "Idempotency-Key",
		"Connection", "Content-Length", "Transfer-Encoding", "Proxy-Authorization", "Te", "Trailer", "Upgrade":
		return "", fmt.Errorf("trace header %q has a meaning of its own; want one such as X-Traceid", name)
	}
	return name, nil
}
