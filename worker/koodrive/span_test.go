package koodrive

import (
	"net/http"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// tracedClient returns a client of a server that records what it gets, and the spans.
func tracedClient(t *testing.T, header string, auth Authorizer) (c *Client, spans *tracetest.SpanRecorder, last func() http.Header) {
	t.Helper()
	var got http.Header
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		_, _ = w.Write([]byte(`{"code":0,"msg":"success"}`))
	})
	spans = tracetest.NewSpanRecorder()
	c, err := New(Config{BaseURL: srv.URL, Authorizer: auth, TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)), TraceHeader: header})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return c, spans, func() http.Header { return got }
}

func TestTraceHeader_TellsTheTrace(t *testing.T) {
	t.Parallel()
	secret, err := StaticSecret("MFyfvK41ba2giqM7Uio6PznpdUKGpownRZlmVmHc")
	if err != nil {
		t.Fatal(err)
	}
	auth, err := NewAppAuthorizer("app-7", secret)
	if err != nil {
		t.Fatal(err)
	}
	parent := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	for header, want := range map[string]func(trace.SpanContext) string{
		"x-traceid": func(sc trace.SpanContext) string { return sc.TraceID().String() + sc.SpanID().String() + "-kooworker" },
		"Traceparent": func(sc trace.SpanContext) string {
			return "00-" + sc.TraceID().String() + "-" + sc.SpanID().String() + "-01"
		},
	} {
		c, spans, last := tracedClient(t, header, auth)
		if a := c.Unbind(trace.ContextWithRemoteSpanContext(t.Context(), parent), "u", "d"); a.Status != http.StatusOK {
			t.Fatal(a)
		}
		ended := spans.Ended()
		if len(ended) != 1 || ended[0].Parent().SpanID() != parent.SpanID() {
			t.Fatalf("%d spans; want one below the caller's", len(ended))
		}
		if got := last().Get(header); got != want(ended[0].SpanContext()) {
			t.Errorf("%s: %q; want %q", header, got, want(ended[0].SpanContext()))
		}
		// A check whether KooDrive works belongs to no task.
		if a := c.Ping(t.Context(), "u"); a.Status != http.StatusOK || len(spans.Ended()) != 1 || last().Get(header) != "" {
			t.Errorf("a call outside any trace: %d spans, header %q; want no more of them, and no header", len(spans.Ended()), last().Get(header))
		}
	}
}

func TestTraceHeader_Refused(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"authorization", "X-User-Id", "x-date", "a b", "x:y", "ü", "Host"} {
		if got, err := checkTraceHeader(name); err == nil {
			t.Errorf("%q is taken as %q; want an error", name, got)
		}
	}
	for name, want := range map[string]string{"": "", "x-traceid": "X-Traceid", "X-Request-ID": "X-Request-Id"} {
		if got, err := checkTraceHeader(name); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", name, got, err, want)
		}
	}
}

func TestSpan_OffAllocatesNothing(t *testing.T) {
	c, req := &Client{}, &http.Request{}
	if n := testing.AllocsPerRun(100, func() { endSpan(c.startSpan(t.Context(), req, call{}), Answer{}) }); n != 0 {
		t.Errorf("%v allocations; want 0", n)
	}
}
