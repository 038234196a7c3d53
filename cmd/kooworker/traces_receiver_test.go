package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/kooworker/kooworker/internal/redistest"
)

// otlpSpan is what the tests look at of a span.
type otlpSpan struct {
	name               string
	kind               tracepb.Span_SpanKind
	trace, id, parent  string
	links              []string // trace and span ID
	start, end         time.Time
	failed             bool
	attributes         map[string]string
	service            string
	raw                string // everything that was sent of it
	resourceAttributes map[string]string
}

// otlpReceiver receives traces as a collector does.
type otlpReceiver struct {
	*httptest.Server

	mu    sync.Mutex
	spans []otlpSpan
}

func startReceiver(t *testing.T) *otlpReceiver {
	t.Helper()
	r := &otlpReceiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		var export collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &export)
		}
		if err != nil || req.URL.Path != "/v1/traces" || req.Header.Get("X-Tenant") != "t1" {
			t.Errorf("%s, X-Tenant %q: %v; want /v1/traces, t1 and an export of traces", req.URL.Path, req.Header.Get("X-Tenant"), err)
		}
		r.add(&export)
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(r.Close)
	return r
}

// env is the environment of a process that exports its traces here.
func (r *otlpReceiver) env(more ...string) []string {
	return append([]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT=" + r.URL, "OTEL_EXPORTER_OTLP_HEADERS=x-tenant=t1", "OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=test",
		"OTEL_BSP_SCHEDULE_DELAY=100",
	}, more...)
}

func (r *otlpReceiver) add(export *collector.ExportTraceServiceRequest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, resource := range export.GetResourceSpans() {
		about := attributesOf(resource.GetResource().GetAttributes())
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				span := otlpSpan{
					name: s.GetName(), kind: s.GetKind(), trace: hex.EncodeToString(s.GetTraceId()), id: hex.EncodeToString(s.GetSpanId()), parent: hex.EncodeToString(s.GetParentSpanId()),
					start: time.Unix(0, int64(s.GetStartTimeUnixNano())), end: time.Unix(0, int64(s.GetEndTimeUnixNano())), //nolint:gosec // times of today
					failed: s.GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR, attributes: attributesOf(s.GetAttributes()),
					service: about["service.name"], raw: resource.GetResource().String() + s.String(), resourceAttributes: about,
				}
				for _, link := range s.GetLinks() {
					span.links = append(span.links, hex.EncodeToString(link.GetTraceId())+hex.EncodeToString(link.GetSpanId()))
				}
				r.spans = append(r.spans, span)
			}
		}
	}
}

func attributesOf(pairs []*commonpb.KeyValue) map[string]string {
	out := map[string]string{}
	for _, pair := range pairs {
		switch v := pair.GetValue().GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			out[pair.GetKey()] = v.StringValue
		case *commonpb.AnyValue_BoolValue:
			out[pair.GetKey()] = fmt.Sprint(v.BoolValue)
		case *commonpb.AnyValue_IntValue:
			out[pair.GetKey()] = fmt.Sprint(v.IntValue)
		default:
			out[pair.GetKey()] = pair.GetValue().String()
		}
	}
	return out
}

// await returns all spans by their start, once there are so many with a name.
func (r *otlpReceiver) await(t *testing.T, n int, name string) []otlpSpan {
	t.Helper()
	var all []otlpSpan
	redistest.Eventually(t, time.Minute, fmt.Sprintf("%d spans %q are exported", n, name), func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		all = slices.Clone(r.spans)
		return len(named(all, name)) >= n
	})
	slices.SortStableFunc(all, func(a, b otlpSpan) int { return a.start.Compare(b.start) })
	return all
}

func named(spans []otlpSpan, name string) (out []otlpSpan) {
	for _, s := range spans {
		if s.name == name {
			out = append(out, s)
		}
	}
	return out
}

// tree draws spans as a tree: each below its parent, in the order of their starts, with
// these attributes.
func tree(spans []otlpSpan, parent string, attributes ...string) string {
	var b strings.Builder
	for _, s := range spans {
		if s.parent != parent {
			continue
		}
		b.WriteString(s.name)
		for _, key := range attributes {
			if value, ok := s.attributes[key]; ok {
				b.WriteString(" " + key[strings.LastIndexByte(key, '.')+1:] + "=" + value)
			}
		}
		if s.failed {
			b.WriteString(" FAILED")
		}
		b.WriteString("\n")
		for line := range strings.Lines(tree(spans, s.id, attributes...)) {
			b.WriteString("  " + line)
		}
	}
	return b.String()
}
