package worker_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hibiken/asynq"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

const producersTrace = "0af7651916cd43dd8448eb211c80319c"

// spansOf returns the spans that have ended, by name.
func spansOf(recorder *tracetest.SpanRecorder) map[string][]sdktrace.ReadOnlySpan {
	out := map[string][]sdktrace.ReadOnlySpan{}
	for _, s := range recorder.Ended() {
		out[s.Name()] = append(out[s.Name()], s)
	}
	return out
}

// traced makes the worker record spans.
func (b *bundle) traced() *tracetest.SpanRecorder {
	spans := tracetest.NewSpanRecorder()
	b.cfg.TracerProvider = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	return spans
}

func TestTraces_ReplayIsInTheTraceOfItsTask(t *testing.T) {
	t.Parallel()
	api := newStandIn(t, always(forbidden))
	b := setup(t, api.URL)
	spans := b.traced()
	b.start()
	headers := map[string]string{"traceparent": "00-" + producersTrace + "-b7ad6b7169203331-01"}
	for device, headers := range map[string]map[string]string{"d-1": headers, "d-2": nil} {
		payload := fmt.Sprintf(`{"v":1,"user_id":"u","device_id":%q}`, device)
		if _, err := b.client.Enqueue(asynq.NewTaskWithHeaders(string(tasks.KindDeviceUnbind), []byte(payload), headers), asynq.Queue(tasks.QueueUnbind), asynq.TaskID("id-"+device)); err != nil {
			t.Fatal(err)
		}
	}
	redistest.Eventually(t, settleIn, "both are dead", func() bool { return len(b.dead()) == 2 && b.outstanding() == 0 })
	api.setAnswer(always(done))
	if res, err := b.letters.Replay(t.Context(), deadletter.Filter{}, deadletter.Options{}); err != nil || res.Done != 2 {
		t.Fatalf("%+v, %v; want 2 replays", res, err)
	}
	redistest.Eventually(t, settleIn, "the replays are done", func() bool { return len(spansOf(spans)["process device:unbind"]) == 4 })
	byTrace := map[string]int{}
	for _, s := range spansOf(spans)["process device:unbind"] {
		byTrace[s.SpanContext().TraceID().String()]++
	}
	if len(byTrace) != 2 || byTrace[producersTrace] != 2 {
		t.Errorf("attempts by trace: %v; want two traces with two attempts each, one of them %s", byTrace, producersTrace)
	}
	for id, n := range byTrace {
		if n != 2 {
			t.Errorf("%d attempts in trace %s; want 2", n, id)
		}
	}
}

// The unbinds of an off-boarding are children of the attempt that has found the devices.
func TestTraces_OffboardingAndItsChildren(t *testing.T) {
	t.Parallel()
	bound := map[string]bool{"d-1": true, "d-2": true}
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		device := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
		if r.Method == http.MethodDelete {
			delete(bound, device)
			_, _ = w.Write([]byte(`{"code":0,"msg":"success"}`))
			return
		}
		var list []string
		for device := range bound {
			list = append(list, fmt.Sprintf(`{"deviceId":%q,"createTime":"2025-09-15T06:14:48.630Z"}`, device))
		}
		_, _ = fmt.Fprintf(w, `{"code":0,"msg":"success","data":[%s]}`, strings.Join(list, ","))
	}))
	t.Cleanup(api.Close)
	b := setup(t, api.URL)
	b.cfg.MaxInFlight = 1 // so that the API needs no lock
	spans := b.traced()
	b.start()
	if _, err := b.client.Enqueue(asynq.NewTask(string(tasks.KindUserOffboard), []byte(`{"v":1,"user_id":"u"}`)), asynq.Queue(tasks.QueueOffboard)); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, settleIn, "the off-boarding is done", func() bool {
		return strings.Contains(b.logs.String(), `"kind":"user:offboard"`) && b.outstanding() == 0
	})
	byName := spansOf(spans)
	parents := map[string]bool{}
	for _, s := range byName["process user:offboard"] {
		parents[s.SpanContext().TraceID().String()+s.SpanContext().SpanID().String()] = true
	}
	children := byName["process device:unbind"]
	if len(children) != 2 {
		t.Errorf("%d unbinds; want 2", len(children))
	}
	for _, s := range children {
		if !parents[s.SpanContext().TraceID().String()+s.Parent().SpanID().String()] {
			t.Errorf("an unbind in trace %s has parent %s; want an attempt of the off-boarding: %v", s.SpanContext().TraceID(), s.Parent().SpanID(), parents)
		}
	}
	for _, s := range spans.Ended() {
		if strings.HasPrefix(s.Name(), "GET") && !s.Parent().IsValid() {
			t.Errorf("%s has no parent; want an attempt", s.Name())
		}
	}
}
