package monitoring_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/pauses"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/audit"
	"github.com/kooworker/kooworker/worker/dashboard/monitoring"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// noticeOf returns the text that the page shows of an answer.
func noticeOf(t *testing.T, h http.Header) string {
	t.Helper()
	text, err := url.PathUnescape(h.Get("Kooworker-Notice"))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// A pause is of the whole queue, says who made it, and leaves another's alone.
func TestPause(t *testing.T) {
	t.Parallel()
	b := setup(t)
	groups := func() []pauses.Group {
		t.Helper()
		lanes, err := pauses.Read(t.Context(), b.rdb)
		if err != nil {
			t.Fatal(err)
		}
		return lanes.Groups()
	}
	w := b.api(operator, http.MethodPost, "queues/unbind-batch-7:pause")
	b.want(w, http.StatusNoContent)
	if text := noticeOf(t, w.Header()); !strings.Contains(text, "Queue unbind, with all its 11 lanes, is paused") {
		t.Errorf("the page shows %q; want that all lanes are paused", text)
	}
	g := groups()
	if len(g) != 1 || !g[0].IsWhole() || g[0].Queue != tasks.QueueUnbind || g[0].By != "olga" || g[0].Reason != "from the monitoring page" {
		t.Errorf("%+v; want a pause of all lanes of unbind by olga", g)
	}
	b.want(b.api(operator, http.MethodPost, "queues/unbind:resume"), http.StatusNoContent)
	if g := groups(); len(g) != 0 {
		t.Errorf("%+v; want no pause", g)
	}
	if err := pauses.Set(t.Context(), b.rdb, []string{tasks.QueueSweep}, pauses.Order{By: "bob@ops", Reason: "the wrong file", For: time.Hour}); err != nil {
		t.Fatal(err)
	}
	want := []audit.Entry{
		{By: "olga", Via: audit.Asynqmon, Action: "queue paused", Subject: "queue unbind", Count: 1},
		{By: "olga", Via: audit.Asynqmon, Action: "queue resumed", Subject: "queue unbind", Count: 1},
	}
	if diff := cmp.Diff(want, b.audited()); diff != "" {
		t.Errorf("audited (-want +got):\n%s", diff)
	}
	w = b.api(operator, http.MethodPost, "queues/sweep:pause")
	b.want(w, http.StatusNoContent)
	if text, g := noticeOf(t, w.Header()), groups(); !strings.Contains(text, "the wrong file") || len(g) != 1 || g[0].By != "bob@ops" || g[0].Until.IsZero() {
		t.Errorf("the page shows %q, and there is %+v; want bob's pause and its reason", text, g)
	}
	b.want(b.api(operator, http.MethodPost, "queues/nothing:pause"), http.StatusNotFound, "is no queue of kooworker's")
	if n := len(b.audited()); n > 0 {
		t.Errorf("%d changes are audited where nothing changed", n)
	}
}

// A pause of one lane, made elsewhere, becomes one of the whole queue.
func TestPause_OfOneLane(t *testing.T) {
	t.Parallel()
	b := setup(t)
	if err := b.inspector.PauseQueue("unbind-bulk"); err != nil {
		t.Fatal(err)
	}
	b.want(b.api(operator, http.MethodPost, "queues/unbind:pause"), http.StatusNoContent)
	for _, lane := range tasks.LanesOf(tasks.QueueUnbind) {
		if b.rdb.Exists(t.Context(), asynqx.PausedKey(lane)).Val() != 1 {
			t.Errorf("%s is not paused", lane)
		}
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.put(tasks.QueueUnbind, "scheduled", "s")
	b.put(tasks.QueueUnbind, "active", "a")
	b.put(tasks.QueueUnbind, "pending", "p")
	b.want(b.api(operator, http.MethodPost, "queues/unbind/scheduled_tasks/s:run"), http.StatusNoContent)
	b.want(b.api(operator, http.MethodPost, "queues/unbind/scheduled_tasks/s:run"), http.StatusConflict, "pending already")
	b.want(b.api(operator, http.MethodPost, "queues/unbind/scheduled_tasks/a:run"), http.StatusConflict, "active already")
	b.want(b.api(operator, http.MethodPost, "queues/unbind/scheduled_tasks/none:run"), http.StatusNotFound)
	b.put(tasks.QueueUnbind, "retry", "r/1")
	w := b.api(operator, http.MethodPost, "queues/unbind/retry_tasks:batch_run", ids("r~2f~1", "r~2f~1", "p", "none"))
	b.want(w, http.StatusOK)
	const want = `{"pending_ids":["r~2f~1"],"error_ids":["none","p"]}` + "\n"
	if got := w.Body.String(); got != want || b.state(tasks.QueueUnbind, "r/1") != "pending" {
		t.Errorf("the answer is %s; want %s", got, want)
	}
	if text := noticeOf(t, w.Header()); !strings.HasPrefix(text, "2 of 3 tasks were not run") {
		t.Errorf("the page shows %q; want how many were not run", text)
	}
	entries := []audit.Entry{
		{By: "olga", Via: audit.Asynqmon, Action: "tasks run", Subject: "queue unbind: s", Count: 1},
		{By: "olga", Via: audit.Asynqmon, Action: "tasks run", Subject: "queue unbind: r/1", Count: 1},
	}
	if diff := cmp.Diff(entries, b.audited()); diff != "" {
		t.Errorf("audited (-want +got):\n%s", diff)
	}
}

func TestDiscard(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for i := range 4 {
		b.park(deadletter.Letter{ID: fmt.Sprint("x/", i), Kind: tasks.KindDeviceUnbind, Payload: []byte(`{"v":1}`)})
	}
	b.want(b.api(operator, http.MethodDelete, "queues/dead-letter/retry_tasks/x~2f~0"), http.StatusNoContent)
	b.want(b.api(operator, http.MethodDelete, "queues/dead-letter/retry_tasks/x~2f~0"), http.StatusConflict, "not there any more")
	b.want(b.api(operator, http.MethodPost, "queues/dead-letter/retry_tasks/x~2f~1:run"), http.StatusNoContent) // it is not parked now
	w := b.api(operator, http.MethodPost, "queues/dead-letter/retry_tasks:batch_delete", ids("x~2f~1", "x~2f~2"))
	const want = `{"deleted_ids":["x~2f~2"],"failed_ids":["x~2f~1"]}` + "\n"
	if got := w.Body.String(); got != want || w.Code != http.StatusOK {
		t.Errorf("%d %s; want %s", w.Code, got, want)
	}
	if text := noticeOf(t, w.Header()); !strings.HasPrefix(text, "1 of 2 dead letters were not discarded") {
		t.Errorf("the page shows %q; want how many are left", text)
	}
	w = b.api(operator, http.MethodPost, "queues/dead-letter/retry_tasks:batch_delete", ids())
	b.want(w, http.StatusOK, `{"deleted_ids":[],"failed_ids":[]}`)
	if state := b.state(tasks.QueueDeadLetter, "x/3"); state != "retry" {
		t.Errorf("the letter that nobody named is %q; want it parked", state)
	}
	actions := func() (out []string) {
		for _, e := range b.audited() {
			out = append(out, fmt.Sprintf("%s %s: %d %s %s", e.By, e.Action, e.Count, e.Subject, e.Error))
		}
		return out
	}
	wantActions := []string{
		"olga dead letters discarded: 1 x/0 ", "olga dead letters replayed: 1 queue dead-letter: x/1 ", "olga dead letters discarded: 1 x/1, x/2 ",
	}
	if diff := cmp.Diff(wantActions, actions()); diff != "" {
		t.Errorf("audited (-want +got):\n%s", diff)
	}

	b.discard = func(context.Context, []string) (int, error) { return 0, errors.New("the ledger is \u202eaway") }
	b.want(b.api(operator, http.MethodDelete, "queues/dead-letter/retry_tasks/x~2f~3"), http.StatusInternalServerError, "the ledger is [U+202E]away")
	b.want(b.api(operator, http.MethodPost, "queues/dead-letter/retry_tasks:batch_delete", ids("x~2f~3")), http.StatusInternalServerError, "the ledger is")
	if got := actions(); len(got) != 2 || !strings.HasPrefix(got[0], "olga dead letters discarded: 0 x/3 the ledger is") {
		t.Errorf("audited %q; want both failures", got)
	}
	b.want(b.api(viewer, http.MethodDelete, "queues/dead-letter/retry_tasks/x~2f~3"), http.StatusForbidden)
}

// A request names no more tasks than a page has, and nothing but tasks.
func TestBatch_Bounds(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.discard = func(_ context.Context, ids []string) (int, error) { return len(ids), nil }
	many := make([]string, 101)
	for i := range many {
		many[i] = fmt.Sprint(i)
	}
	huge, err := json.Marshal(strings.Repeat("x", 1_000_000))
	if err != nil {
		t.Fatal(err)
	}
	for body, code := range map[string]int{
		ids(many[:100]...): http.StatusOK, ids(many...): http.StatusBadRequest, ids(slices.Concat(many[:100], many[:100])...): http.StatusOK,
		"": http.StatusBadRequest, "{": http.StatusBadRequest, `{"task_ids":"x"}`: http.StatusBadRequest, `{"ids":["x"]}`: http.StatusBadRequest,
		`{"task_ids":[` + string(huge) + `]}`: http.StatusBadRequest,
	} {
		for _, verb := range []string{"batch_delete", "batch_run"} {
			if w := b.api(operator, http.MethodPost, "queues/dead-letter/retry_tasks:"+verb, body); w.Code != code {
				t.Errorf("%s of %.60s: %d %.200s; want %d", verb, body, w.Code, w.Body, code)
			}
		}
	}
}

// If Redis is away, nothing claims to be done.
func TestServe_RedisAway(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b := setupOver(t, server.Client())
	b.put(tasks.QueueUnbind, "retry", "x")
	server.Kill()
	for _, c := range []struct{ method, endpoint, body string }{
		{http.MethodGet, "queues", ""}, {http.MethodGet, "queues/unbind/tasks/x", ""}, {http.MethodPost, "queues/unbind:pause", ""}, {http.MethodPost, "queues/unbind:resume", ""},
		{http.MethodPost, "queues/unbind/retry_tasks/x:run", ""}, {http.MethodDelete, "queues/dead-letter/retry_tasks/x", ""}, {http.MethodPost, "queues/dead-letter/retry_tasks:batch_delete", ids("x")},
	} {
		b.want(b.api(operator, c.method, c.endpoint, c.body), http.StatusInternalServerError)
	}
	b.want(b.api(operator, http.MethodPost, "queues/unbind/retry_tasks:batch_run", ids("x")), http.StatusOK, `{"pending_ids":[],"error_ids":["x"]}`)
	for _, e := range b.audited() {
		if e.Count != 0 || e.Error == "" {
			t.Errorf("audited %+v; want nothing that was done", e)
		}
	}
}

func TestServe_Cluster(t *testing.T) {
	t.Parallel()
	b := setupOver(t, redistest.StartCluster(t, 3, false, "--cluster-node-timeout", "60000").Client())
	b.put(tasks.QueueUnbind, "retry", "x")
	b.park(deadletter.Letter{ID: "l", Kind: tasks.KindDeviceUnbind, Payload: []byte(`{"v":1}`)})
	for _, endpoint := range []string{"queues", "redis_info", "queue_stats", "servers", "scheduler_entries", "queues/unbind/retry_tasks", "queues/dead-letter/tasks/l"} {
		wantHarmless(t, endpoint, b.get(endpoint))
	}
	b.want(b.api(operator, http.MethodPost, "queues/unbind/retry_tasks/x:run"), http.StatusNoContent)
	b.want(b.api(operator, http.MethodPost, "queues/dead-letter/retry_tasks:batch_delete", ids("l", "none")), http.StatusOK, `{"deleted_ids":["l","none"],"failed_ids":[]}`)
	b.want(b.api(operator, http.MethodPost, "queues/unbind-urgent:pause"), http.StatusNoContent)
	if n := len(b.audited()); n != 3 {
		t.Errorf("%d changes are audited; want 3", n)
	}
}

// The client of Redis is the caller's, also after Close.
func TestClose_LeavesTheClient(t *testing.T) {
	t.Parallel()
	b := setup(t)
	if err := b.handler.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.rdb.Ping(t.Context()).Err(); err != nil {
		t.Errorf("after Close: %v; want that the client still works", err)
	}
}

func TestNew_Validates(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for name, change := range map[string]func(*monitoring.Config){
		"*redis.Client":                    func(c *monitoring.Config) { c.Redis = nil },
		"Discard and Audit are required":   func(c *monitoring.Config) { c.Discard = nil },
		"Discard and Audit are required\n": func(c *monitoring.Config) { c.Audit = nil },
		`RootPath is ""`:                   func(c *monitoring.Config) { c.RootPath = "" },
		`RootPath is "/"`:                  func(c *monitoring.Config) { c.RootPath = "/" },
		`RootPath is "/x/"`:                func(c *monitoring.Config) { c.RootPath = "/x/" },
		`RootPath is "x"`:                  func(c *monitoring.Config) { c.RootPath = "x" },
		`RootPath is "/x/../y"`:            func(c *monitoring.Config) { c.RootPath = "/x/../y" },
	} {
		cfg := b.config()
		change(&cfg)
		if _, err := monitoring.New(cfg); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(name)) {
			t.Errorf("%v; want an error with %q", err, name)
		}
	}
}
