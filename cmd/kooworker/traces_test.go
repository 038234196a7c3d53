package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// traceHeaders serves an API and records the X-Traceid of each call.
type traceHeaders struct {
	api  http.Handler
	mu   sync.Mutex
	sent []string
}

func (h *traceHeaders) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.sent = append(h.sent, r.Header.Get("X-Traceid"))
	h.mu.Unlock()
	h.api.ServeHTTP(w, r)
}

func (h *traceHeaders) all() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.sent...)
}

// runProcess runs a command as a process of its own.
func runProcess(t *testing.T, env []string, args ...string) {
	t.Helper()
	p := startProcess(t, env, args...)
	if err := p.cmd.Wait(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, p.log())
	}
}

const oneTrace = "0af7651916cd43dd8448eb211c80319c"

// One order, whose first call fails: the trace shows the producer, each wait, each attempt
// and its call, in the trace of who has called the command.
func TestTraces_OneTask(t *testing.T) {
	t.Parallel()
	server, receiver := redistest.Start(t), startReceiver(t)
	sim, _ := startSimulator(t, "status=500,call=unbind,times=1")
	sim.Bind("user-4711", simulator.Device{DeviceID: "device-4711"})
	headers := &traceHeaders{api: sim}
	api := httptest.NewServer(headers)
	t.Cleanup(api.Close)

	runProcess(t, receiver.env("TRACEPARENT=00-"+oneTrace+"-b7ad6b7169203331-01", "OTEL_SERVICE_NAME=shop"),
		"enqueue", "unbind", "--user-id", "user-4711", "--device-id", "device-4711", "--redis-url", server.URL())
	worker := startProcess(t, receiver.env("KOODRIVE_TOKEN=t0ken"),
		"worker", "--redis-url", server.URL(), "--koodrive-url", api.URL, "--backoff-first", "2s", "--trace-header", "X-Traceid")
	spans := receiver.await(t, 2, "process device:unbind")
	if code := worker.end(t, syscall.SIGTERM); code != exitDone {
		t.Errorf("the worker ends with %d; want %d\n%s", code, exitDone, worker.log())
	}
	t.Logf("\n%s", tree(spans, "b7ad6b7169203331", "kooworker.attempt"))

	var calls []otlpSpan
	for _, s := range spans {
		if strings.Contains(s.name, "/device") {
			calls = append(calls, s)
		}
		if s.trace != oneTrace {
			t.Errorf("%s is in trace %s; want %s", s.name, s.trace, oneTrace)
		}
		if wantService := map[bool]string{true: "shop", false: "kooworker"}[s.name == "enqueue device:unbind"]; s.service != wantService {
			t.Errorf("%s is of service %q; want %q", s.name, s.service, wantService)
		}
		if s.resourceAttributes["deployment.environment.name"] != "test" {
			t.Errorf("the resource of %s is %v; want what OTEL_RESOURCE_ATTRIBUTES says", s.name, s.resourceAttributes)
		}
		for _, secret := range []string{"t0ken", "user-4711", "device-4711"} {
			if strings.Contains(s.raw, secret) {
				t.Errorf("%s tells %s: %s", s.name, secret, s.raw)
			}
		}
	}
	want := `enqueue device:unbind status=enqueued
  wait device:unbind attempt=1
  process device:unbind attempt=1 reason=upstream charged=true FAILED
    DELETE /device/{deviceId} status_code=500 reason=upstream FAILED
    GET /device status_code=200 reason=ok
  wait device:unbind attempt=2
  process device:unbind attempt=2 outcome=succeeded reason=ok charged=false
    DELETE /device/{deviceId} status_code=200 reason=ok
`
	got := tree(spans, "b7ad6b7169203331", "kooworker.status", "kooworker.attempt", "http.response.status_code", "kooworker.outcome", "kooworker.reason", "kooworker.charged")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the trace (-want +got):\n%s", diff)
	}
	waits, attempts := named(spans, "wait device:unbind"), named(spans, "process device:unbind")
	for i, wait := range waits {
		if !wait.end.Equal(attempts[i].start) {
			t.Errorf("wait %d ends at %s; want %s, when attempt %d begins", i+1, wait.end, attempts[i].start, i+1)
		}
	}
	if len(waits) == 2 && waits[1].start.Before(attempts[0].end) {
		t.Errorf("the second wait begins at %s; want %s or later, when the first attempt has ended", waits[1].start, attempts[0].end)
	}
	if sent := headers.all(); len(sent) != len(calls) {
		t.Errorf("%d calls and %d spans of calls; want as many", len(sent), len(calls))
	} else {
		for i, s := range calls {
			if want := oneTrace + s.id + "-kooworker"; sent[i] != want || len(want) != 58 {
				t.Errorf("call %d has X-Traceid %q; want the 58 characters %q", i+1, sent[i], want)
			}
		}
	}
	if !strings.Contains(worker.log(), `"trace_id":"`+oneTrace+`"`) {
		t.Errorf("no log line has the trace_id %s:\n%s", oneTrace, worker.log())
	}
}

// Many tasks: one span of the producer, and for each task a trace of its own that links
// to it. All attempts of a task are in its trace.
func TestTraces_BatchLinks(t *testing.T) {
	t.Parallel()
	server, receiver := redistest.Start(t), startReceiver(t)
	_, url := startSimulator(t, "status=500,call=unbind,target=device-2,times=1")
	file := filepath.Join(t.TempDir(), "devices.csv")
	if err := os.WriteFile(file, []byte("user_id,device_id\nu-1,device-1\nu-2,device-2\nu-3,device-3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	runProcess(t, receiver.env(), "enqueue", "unbind", "--file", file, "--batch", "b-1", "--redis-url", server.URL())
	worker := startProcess(t, receiver.env("KOODRIVE_TOKEN=t0ken"), "worker", "--redis-url", server.URL(), "--koodrive-url", url, "--backoff-first", "1s")
	spans := receiver.await(t, 4, "process device:unbind")
	worker.end(t, syscall.SIGTERM)

	bulks := named(spans, "enqueue bulk")
	if len(bulks) != 1 {
		t.Fatalf("%d spans of the bulk; want 1\n%s", len(bulks), tree(spans, ""))
	}
	if n := bulks[0].attributes["messaging.batch.message_count"]; n != "3" || bulks[0].attributes["kooworker.batch"] != "b-1" {
		t.Errorf("the bulk has %v; want 3 messages of b-1", bulks[0].attributes)
	}
	attempts := map[string]int{} // by trace
	for _, s := range append(named(spans, "process device:unbind"), named(spans, "wait device:unbind")...) {
		if s.parent != "" || s.trace == bulks[0].trace || len(s.links) != 1 || s.links[0] != bulks[0].trace+bulks[0].id {
			t.Errorf("%s has parent %q, trace %s, links %v; want no parent, a trace of its own and one link to %s%s", s.name, s.parent, s.trace, s.links, bulks[0].trace, bulks[0].id)
		}
		if s.name == "process device:unbind" {
			attempts[s.trace]++
		}
	}
	var twice int
	for _, n := range attempts {
		if n == 2 {
			twice++
		}
	}
	if len(attempts) != 3 || twice != 1 {
		t.Errorf("attempts by trace: %v; want three traces, one of them with two attempts", attempts)
	}
	stats, err := batch.NewStore(server.Client()).Show(t.Context(), "b-1")
	if err != nil || stats.Queued != 0 {
		t.Errorf("%+v, %v; want all outcomes", stats, err)
	}
}

// Without the variables a message is what it was, byte for byte but for the time. With
// TRACEPARENT alone the trace of the caller goes on.
func TestTraces_Off(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		env  []string
		want string
	}{
		"nothing set":          {nil, ""},
		"no exporter":          {[]string{"OTEL_TRACES_EXPORTER=none", "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1"}, ""},
		"SDK disabled":         {[]string{"OTEL_SDK_DISABLED=true", "OTEL_TRACES_EXPORTER=otlp"}, ""},
		"an unknown exporter":  {[]string{"OTEL_TRACES_EXPORTER=zipkin"}, ""},
		"the caller's trace":   {[]string{"TRACEPARENT=00-" + oneTrace + "-b7ad6b7169203331-01"}, oneTrace},
		"an unreadable parent": {[]string{"TRACEPARENT=00-" + oneTrace}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			runProcess(t, test.env, "enqueue", "unbind", "--user-id", "u", "--device-id", "d", "--redis-url", server.URL())
			message, err := server.Client().HGet(t.Context(), asynqx.TaskKey("unbind", "device:unbind:u:d"), "msg").Result()
			if err != nil {
				t.Fatal(err)
			}
			if has := strings.Contains(message, "traceparent"); has != (test.want != "") || !strings.Contains(message, test.want) {
				t.Errorf("the message is %q; want traceparent and %q in it: %t", message, test.want, test.want != "")
			}
		})
	}
}

// deadCollectors are collectors that refuse, and that take and never answer.
func deadCollectors(t *testing.T) map[string]string {
	t.Helper()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	refused, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = refused.Close()
	return map[string]string{"refuses": refused.Addr().String(), "is silent": silent.Addr().String()}
}

func TestTraces_CollectorAway(t *testing.T) {
	t.Parallel()
	for name, addr := range deadCollectors(t) {
		for _, protocol := range []string{"http/protobuf", "grpc"} {
			t.Run(name+" "+protocol, func(t *testing.T) {
				t.Parallel()
				server := redistest.Start(t)
				_, url := startSimulator(t)
				env := []string{"KOODRIVE_TOKEN=t0ken", "OTEL_EXPORTER_OTLP_ENDPOINT=http://" + addr, "OTEL_EXPORTER_OTLP_PROTOCOL=" + protocol, "OTEL_BSP_SCHEDULE_DELAY=10"}
				began := time.Now()
				for i := range 3 {
					p := startProcess(t, env, "enqueue", "unbind", "--user-id", "u", "--device-id", fmt.Sprint("d-", i), "--redis-url", server.URL())
					if err := p.cmd.Wait(); err != nil || p.log() != "" {
						t.Fatalf("%v, stderr %q; want exit code 0 and nothing on stderr", err, p.log())
					}
				}
				t.Logf("three commands took %s", time.Since(began))
				worker := startProcess(t, env, "worker", "--redis-url", server.URL(), "--koodrive-url", url)
				redistest.Eventually(t, time.Minute, "three unbinds are done", func() bool { return strings.Count(worker.log(), "already gone") == 3 })
				began = time.Now()
				if code := worker.end(t, syscall.SIGTERM); code != exitDone {
					t.Errorf("the worker ends with %d; want %d\n%s", code, exitDone, worker.log())
				}
				t.Logf("the worker's end took %s", time.Since(began))
				if took := time.Since(began); took > 30*time.Second {
					t.Errorf("the end took %s; want 3 s for the collector, and what a busy machine adds", took)
				}
				if n := strings.Count(worker.log(), `"logger":"traces"`); n > 5 {
					t.Errorf("%d lines about traces; want 5 at most:\n%s", n, worker.log())
				}
			})
		}
	}
}
