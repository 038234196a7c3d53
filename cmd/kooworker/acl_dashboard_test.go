package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

// browse uses the dashboard, which runs as the worker's user: it reads each page, and changes
// what can be changed there, while a worker runs.
func (g *guarded) browse() {
	g.t.Helper()
	dashboard, at := startDashboard(g.t, g.server, "--redis-url", g.url(workerUser), "--users-file", dashboardUsers(g.t))
	read := func(page string) string { g.t.Helper(); return g.visit(http.MethodGet, at+page, nil) }
	change := func(method, page string, form url.Values) { g.t.Helper(); g.visit(method, at+page, form) }
	why := url.Values{"why": {"INC-18: <all> is \"well\""}}
	with := func(name, value string) url.Values {
		return url.Values{name: {value}, "why": why["why"]}
	}

	for _, page := range []string{
		"/", "/queues", "/batches", "/batches?user_id=u", "/batches/b-3", "/batches/b-3/receipts", "/batches/b-3/cancel", "/user?user_id=u",
		"/dead", "/dead?reason=forbidden&user_id=u", "/dead/replay?reason=forbidden", "/dead/discard?batch=b-3", "/jobs",
		"/locks", "/locks?user_id=u", "/locks?dry_run=1", "/audit",
		"/monitoring/", "/monitoring/api/queues", "/monitoring/api/queue_stats", "/monitoring/api/servers", "/monitoring/api/scheduler_entries", "/monitoring/api/redis_info",
		"/monitoring/api/queues/unbind", "/monitoring/api/queues/unbind/groups",
	} {
		read(page)
	}
	for _, state := range []string{"active", "pending", "scheduled", "retry", "archived", "completed"} {
		read("/monitoring/api/queues/unbind/" + state + "_tasks")
	}

	change(http.MethodPost, "/queues/pause", with("queue", tasks.QueueOffboard))
	change(http.MethodPost, "/queues/resume", with("queue", tasks.QueueOffboard))
	change(http.MethodPost, "/monitoring/api/queues/offboard:pause", nil)
	change(http.MethodPost, "/monitoring/api/queues/offboard:resume", nil)
	g.as(producerUser, "user_id,device_id\nu,d-3\n", done, "enqueue", "unbind", "--file", "-", "--batch", "b-5", "--in", "1h")
	change(http.MethodPost, "/batches/b-5/hold", why)
	change(http.MethodPost, "/batches/b-5/release", why)
	change(http.MethodPost, "/batches/b-5/cancel", why)
	change(http.MethodPost, "/locks/sweep", with("source", string(tasks.SourceLedger)))

	// A letter is dead again soon after each replay, because KooDrive goes on to forbid it.
	letter := func() {
		g.t.Helper()
		redistest.Eventually(g.t, 30*time.Second, "dead-1 is a dead letter", func() bool { return strings.Contains(read("/dead?reason=forbidden"), "dead-1") })
	}
	order := func(verb, count string) {
		g.t.Helper()
		letter()
		job := "/jobs/" + path.Base(send(g.t, at+"/dead/"+verb, with("id", "device:unbind:u:dead-1")))
		redistest.Eventually(g.t, time.Minute, "the job is done", func() bool {
			page := read(job)
			return strings.Contains(page, ">done</p>") && strings.Contains(page, "<dt>"+count+"</dt><dd>1</dd>")
		})
	}
	order("replay", "Replayed")
	letter()
	retries := "/monitoring/api/queues/" + tasks.QueueDeadLetter + "/retry_tasks"
	var letters struct {
		Tasks []struct{ ID string } `json:"tasks"`
	}
	if err := json.Unmarshal([]byte(read(retries)), &letters); err != nil || len(letters.Tasks) < 2 {
		g.t.Fatalf("asynqmon shows %+v, %v; want dead letters", letters, err)
	}
	for _, task := range letters.Tasks {
		switch {
		case strings.Contains(task.ID, "dead-1"):
			read("/monitoring/api/queues/" + tasks.QueueDeadLetter + "/tasks/" + url.PathEscape(task.ID))
			change(http.MethodPost, retries+"/"+url.PathEscape(task.ID)+":run", nil)
		case strings.Contains(task.ID, "archived-1"):
			change(http.MethodDelete, retries+"/"+url.PathEscape(task.ID), nil)
		}
	}
	order("discard", "Discarded")

	changes := read("/audit")
	for _, want := range []string{
		"replay of dead letters ordered", "discard of dead letters ordered", "queues paused", "sweep ordered", ">asynqmon<", ">dashboard<", "alice", "INC-18",
	} {
		if !strings.Contains(changes, want) {
			g.t.Errorf("the audit page does not have %q:\n%s", want, changes)
		}
	}
	if code := dashboard.end(g.t, syscall.SIGTERM); code != exitDone || strings.Contains(dashboard.log(), "NOPERM") {
		g.t.Errorf("the dashboard: exit %d; want exit 0, and no NOPERM\n%s", code, dashboard.log())
	}
}

// visit sends a request as alice, and wants it to be answered. It returns the answer.
func (g *guarded) visit(method, to string, form url.Values) string {
	g.t.Helper()
	r, err := http.NewRequestWithContext(g.t.Context(), method, to, strings.NewReader(form.Encode()))
	if err != nil {
		g.t.Fatal(err)
	}
	if method != http.MethodGet {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	r.SetBasicAuth("alice", "pw")
	r.Close = true
	resp, err := http.DefaultTransport.RoundTrip(r) // does not follow redirects
	if err != nil {
		g.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	if resp.StatusCode >= http.StatusBadRequest || strings.Contains(string(body), "NOPERM") {
		g.t.Errorf("%s %s: status %d; want an answer\n%s", method, to, resp.StatusCode, body)
	}
	return string(body)
}
