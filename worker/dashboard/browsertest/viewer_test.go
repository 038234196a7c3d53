//go:build browser

package browsertest

import (
	"fmt"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// request sends a request from the page itself, with its login, and returns the status.
func (b *tab) request(method, path, contentType, body string) int {
	b.t.Helper()
	options := `{method: ` + quote(method) + `, redirect: "manual", headers: {"Content-Type": ` + quote(contentType) + `}, body: ` + quote(body) + `}`
	return evaluate[int](b, `fetch(`+quote(path)+`, `+options+`).then(answer => answer.type === "opaqueredirect" ? 303 : answer.status)`)
}

func (s *stage) testViewer(job string) {
	t := s.t
	letter := s.letterOf("u-10205")
	before := len(s.changes())
	b := s.open("bob")
	for _, v := range own(job) {
		want := max(v.status, 200)
		if v.operators {
			want = 403
		}
		if status := b.visit(v.path); status != want {
			t.Errorf("%s: status %d; want %d", v.path, status, want)
		}
		if want != 200 {
			b.forgive() // the browser logs the status
		}
		b.want(".who", "bob, viewer")
		if n := b.count(`form:not([method="get"]), a.button, button.danger`); n > 0 {
			t.Errorf("%s has %d forms or buttons that change something; want none for a viewer", v.path, n)
		}
	}

	const form, json = "application/x-www-form-urlencoded", "application/json"
	b.see("/queues")
	for _, path := range []string{
		"/queues/pause", "/queues/resume", "/locks/sweep", "/dead/replay", "/dead/discard", "/jobs/" + job + "/stop",
		"/batches/deletions-2026-11/cancel", "/batches/deletions-2026-11/hold", "/batches/accounts-2026-11/release",
	} {
		if status := b.request("POST", path, form, "queue=unbind&source=ledger&why=x&all=yes"); status != 403 {
			t.Errorf("POST %s: status %d; want 403", path, status)
		}
	}
	const queue = "/monitoring/api/queues/dead-letter"
	for _, r := range []struct{ method, path, body string }{
		{"DELETE", queue, ""},
		{"POST", queue + ":pause", ""},
		{"POST", queue + ":resume", ""},
		{"POST", queue + "/retry_tasks/" + letter.ID + ":run", ""},
		{"POST", queue + "/retry_tasks/" + letter.ID + ":archive", ""},
		{"DELETE", queue + "/retry_tasks/" + letter.ID, ""},
		{"POST", queue + "/retry_tasks:batch_run", `{"task_ids":["` + letter.ID + `"]}`},
		{"POST", queue + "/retry_tasks:batch_delete", `{"task_ids":["` + letter.ID + `"]}`},
		{"POST", queue + "/retry_tasks:batch_archive", `{"task_ids":["` + letter.ID + `"]}`},
		{"POST", queue + "/retry_tasks:run_all", ""},
		{"POST", queue + "/retry_tasks:archive_all", ""},
		{"DELETE", queue + "/retry_tasks:delete_all", ""},
		{"POST", queue + "/active_tasks/x:cancel", ""},
	} {
		if status := b.request(r.method, r.path, json, r.body); status != 403 {
			t.Errorf("%s %s: status %d; want 403", r.method, r.path, status)
		}
	}
	b.see("/monitoring/queues/dead-letter?status=retry")
	redistest.Eventually(t, soon, "asynqmon shows the letters", func() bool { return b.count("table tbody tr") > 0 })
	if n := b.count(`input[type="checkbox"]`); n > 0 {
		t.Errorf("asynqmon has %d boxes to select tasks; want none for a viewer", n)
	}
	if changes, left := len(s.changes()), len(s.letters(deadletter.Filter{})); changes != before || left != fullLetters {
		t.Errorf("%d changes and %d letters; want %d and %d, as before", changes, left, before, fullLetters)
	}
	b.forgive() // the browser logs each 403

	// The same requests are good if an operator sends them.
	operator := s.open("alice")
	operator.see("/queues")
	if status := operator.request("POST", "/queues/pause", form, "queue=release&why=x"); status != 303 {
		t.Errorf("a pause by an operator: status %d; want 303", status)
	}
	if status := operator.request("POST", fmt.Sprint(queue, "/retry_tasks/", letter.ID, ":run"), json, ""); status >= 300 {
		t.Errorf("a run by an operator: status %d; want 2xx", status)
	}
	if status := operator.request("POST", queue+"/retry_tasks:archive_all", json, ""); status != 403 {
		t.Errorf("archive_all by an operator: status %d; want 403", status)
	}
	operator.forgive()
}
