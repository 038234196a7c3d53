package monitoring_test

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// What an operator gets, in the queue of dead letters and in the queue unbind.
type outcome struct{ letter, unbind int }

var (
	readable  = outcome{200, 200}
	done      = outcome{204, 204}
	answered  = outcome{200, 200} // with a list of what was done
	forbidden = outcome{403, 403}
)

// endpoints are all that asynqmon has.
func endpoints() map[string]outcome {
	all := map[string]outcome{
		"GET /queues": readable, "GET /queues/{qname}": readable, "GET /queue_stats": readable,
		"GET /queues/{qname}/tasks/{task_id}": readable, "GET /queues/{qname}/groups": readable, "GET /servers": readable,
		"GET /scheduler_entries": readable, "GET /scheduler_entries/{entry_id}/enqueue_events": readable, "GET /redis_info": readable,
		"GET /metrics":               {404, 404}, // there is no Prometheus
		"DELETE /queues/{qname}":     forbidden,
		"POST /queues/{qname}:pause": done, "POST /queues/{qname}:resume": done,
		"POST /queues/{qname}/active_tasks/{task_id}:cancel": forbidden,
		"POST /queues/{qname}/active_tasks:cancel_all":       forbidden,
		"POST /queues/{qname}/active_tasks:batch_cancel":     forbidden,
	}
	const group = "/queues/{qname}/groups/{gname}/aggregating_tasks"
	for _, state := range []string{"active", "pending", "scheduled", "retry", "archived", "completed", group} {
		dir := "/queues/{qname}/" + state + "_tasks"
		if state == group {
			dir = group
		}
		all["GET "+dir] = readable
		if state == "active" {
			continue
		}
		one, many := forbidden, forbidden
		if state == "retry" {
			one, many = outcome{204, 403}, outcome{200, 403}
		}
		all["DELETE "+dir+"/{task_id}"], all["POST "+dir+":batch_delete"], all["DELETE "+dir+":delete_all"] = one, many, forbidden
		if state != "pending" && state != "completed" {
			one, many = done, answered
			if state == group {
				one, many = forbidden, forbidden
			}
			all["POST "+dir+"/{task_id}:run"], all["POST "+dir+":batch_run"], all["POST "+dir+":run_all"] = one, many, forbidden
		}
		if state != "archived" && state != "completed" {
			all["POST "+dir+"/{task_id}:archive"], all["POST "+dir+":batch_archive"], all["POST "+dir+":archive_all"] = forbidden, forbidden, forbidden
		}
	}
	return all
}

// asynqmonSource returns a file of the linked asynqmon.
func asynqmonSource(t *testing.T, name string) string {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/hibiken/asynqmon").Output()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// An asynqmon with another endpoint fails this test. Then decide what it may do.
func TestServe_KnowsAllEndpoints(t *testing.T) {
	t.Parallel()
	route := regexp.MustCompile(`api\.HandleFunc\("([^"]+)", .*\.Methods\("(\w+)"\)`)
	source := asynqmonSource(t, "handler.go")
	found := make(map[string]bool)
	for _, m := range route.FindAllStringSubmatch(source, -1) {
		found[m[2]+" "+m[1]] = true
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(found)), slices.Sorted(maps.Keys(endpoints()))); diff != "" {
		t.Errorf("asynqmon's endpoints (-) are not those of this test (+):\n%s", diff)
	}
	// redis_info is there twice, for a cluster and for one server.
	if n, want := strings.Count(source, "HandleFunc("), len(found)+1; n != want {
		t.Errorf("handler.go registers %d endpoints, and this test reads %d of them", n, want)
	}
}

// Every endpoint, asked by a viewer and by an operator, with a task that the endpoint could act
// on. What is refused changes nothing in Redis.
func TestServe_Endpoints(t *testing.T) {
	t.Parallel()
	b := setup(t)
	n := 0
	for _, endpoint := range slices.Sorted(maps.Keys(endpoints())) {
		method, path, _ := strings.Cut(endpoint, " ")
		for _, queue := range []string{tasks.QueueDeadLetter, tasks.QueueUnbind} {
			n++
			id := fmt.Sprint("task-", n)
			b.putFor(path, queue, id)
			target := strings.NewReplacer("{qname}", queue, "{task_id}", id, "{gname}", "g", "{entry_id}", "e").Replace(strings.TrimPrefix(path, "/"))
			body := ids(id)
			want := endpoints()[endpoint].unbind
			if queue == tasks.QueueDeadLetter {
				want = endpoints()[endpoint].letter
			}

			before := b.contents()
			w := b.api(viewer, method, target, body)
			if method == http.MethodGet {
				b.want(w, want)
			} else {
				b.want(w, http.StatusForbidden, "viewer")
			}
			if diff := cmp.Diff(before, b.contents()); diff != "" {
				t.Errorf("%s of %s changed something for a viewer:\n%s", endpoint, queue, diff)
			}

			w = b.api(operator, method, target, body)
			b.want(w, want)
			changed := len(b.audited()) > 0
			if allowed := method != http.MethodGet && want < 300; changed != allowed {
				t.Errorf("%s of %s by an operator: audited %t; want %t", endpoint, queue, changed, allowed)
			}
			if diff := cmp.Diff(before, b.contents()); (diff != "") != changed && !strings.HasSuffix(path, ":resume") { // none was paused
				t.Errorf("%s of %s: audited %t, and Redis (-before +after):\n%s", endpoint, queue, changed, diff)
			}
			if want == http.StatusForbidden && len(w.Body.String()) < 60 {
				t.Errorf("%s is refused with %q; want the reason, and what to do instead", endpoint, w.Body)
			}
			if t.Failed() {
				t.Fatalf("that was %s of %s", endpoint, queue)
			}
		}
	}
}

// putFor puts a task where an endpoint looks for it.
func (b *bundle) putFor(path, queue, id string) {
	b.t.Helper()
	rest, _, _ := strings.Cut(path, "_tasks")
	switch state := rest[strings.LastIndexByte(rest, '/')+1:]; {
	case queue == tasks.QueueDeadLetter && state == "retry":
		b.park(deadletter.Letter{ID: id, Kind: tasks.KindDeviceUnbind, Queue: tasks.QueueUnbind, Payload: []byte(`{"v":1}`)})
	case slices.Contains([]string{"active", "scheduled", "retry", "archived", "completed"}, state):
		b.put(queue, state, id)
	default:
		b.put(queue, "pending", id)
	}
}

// What is in no table is refused.
func TestServe_UnknownEndpoints(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.put(tasks.QueueUnbind, "scheduled", "x")
	before := b.contents()
	for _, c := range []struct{ method, target string }{
		{"POST", "api/queues/unbind"}, {"PUT", "api/queues/unbind:pause"}, {"PATCH", "api/queues/unbind"}, {"POST", "api/queues/unbind:drain"},
		{"POST", "api/queues/:pause"}, {"GETS", "api/queues"}, {"OPTIONS", "api/queues"}, {"CONNECT", "api/queues"},
		{"POST", "api/queues/unbind/scheduled_tasks/x:frobnicate"}, {"POST", "api/queues/unbind/scheduled_tasks/x"}, {"POST", "api/queues/unbind/scheduled_tasks/:run"},
		{"POST", "api/queues/unbind/scheduled_tasks:run"}, {"DELETE", "api/queues/unbind/scheduled_tasks:batch_run"}, {"POST", "api/queues/unbind/scheduled_tasks:delete_all"},
		{"POST", "api/queues/unbind/other_tasks/x:run"}, {"POST", "api/queues/unbind/aggregating_tasks/x:run"}, {"POST", "api/queues/unbind/groups/g/scheduled_tasks/x:run"},
		{"POST", "api/queues/unbind/scheduled_tasks/a/b:run"}, {"POST", "api/"}, {"POST", "api"}, {"POST", ""}, {"POST", "queues/unbind:pause"}, {"DELETE", "static/js/main.js"},
		{"POST", "api//queues/unbind:pause"}, {"POST", "api/../api/queues/unbind:pause"}, {"POST", "api/queues/unbind/../unbind:pause"},
	} {
		for _, user := range []struct {
			name string
			do   func() (int, string)
		}{
			{"viewer", func() (int, string) {
				w := b.serve(viewer, c.method, root+"/"+c.target)
				return w.Code, w.Body.String()
			}},
			{"operator", func() (int, string) {
				w := b.serve(operator, c.method, root+"/"+c.target)
				return w.Code, w.Body.String()
			}},
		} {
			if code, text := user.do(); code != http.StatusForbidden {
				t.Errorf("%s %s by a %s: %d %s; want 403", c.method, c.target, user.name, code, text)
			}
		}
	}
	for _, target := range []string{"api/nothing", "api/queues/unbind:pause", "api/queues/unbind/other_tasks", "api/queues//retry_tasks", "api/queues/a/b/c/d/e/f", "api/scheduler_entries/x/y", "api/"} {
		b.want(b.serve(operator, http.MethodGet, root+"/"+target), http.StatusNotFound)
	}
	for _, target := range []string{"/koo/monitoringx", "/koo", "/other/api/queues"} {
		b.want(b.serve(operator, http.MethodGet, target), http.StatusNotFound)
	}
	if diff := cmp.Diff(before, b.contents()); diff != "" || len(b.audited()) > 0 {
		t.Errorf("something was changed:\n%s", diff)
	}
}
