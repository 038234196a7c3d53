//go:build browser

package browsertest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/kooworker/kooworker/internal/redistest"
)

// view is a page of the dashboard.
type view struct {
	name, path string
	status     int    // 0: 200
	operators  bool   // viewers may not see it
	ready      string // an element that is there when asynqmon has drawn its page
}

// own are the dashboard's own pages, of a stage that is full.
func own(job string) []view {
	return []view{
		{name: "now", path: "/"},
		{name: "dead", path: "/dead"},
		{name: "dead-filtered", path: "/dead?reason=forbidden&batch=deletions-2026-09"},
		{name: "replay", path: "/dead/replay?reason=forbidden", operators: true},
		{name: "discard", path: "/dead/discard", operators: true},
		{name: "jobs", path: "/jobs"},
		{name: "job", path: "/jobs/" + job},
		{name: "batches", path: "/batches"},
		{name: "batches-of-user", path: "/batches?user_id=u-10201"},
		{name: "batch", path: "/batches/deletions-2026-11"},
		{name: "batch-held", path: "/batches/accounts-2026-11"},
		{name: "batch-done", path: "/batches/deletions-2026-09"},
		{name: "cancel", path: "/batches/deletions-2026-11/cancel", operators: true},
		{name: "user", path: "/user"},
		{name: "user-found", path: "/user?user_id=u-10201"},
		{name: "locks", path: "/locks"},
		{name: "locks-dry-run", path: "/locks?dry_run=1"},
		{name: "queues", path: "/queues"},
		{name: "audit", path: "/audit"},
		{name: "not-found", path: "/nothing", status: 404},
		{name: "refused", path: "/dead?reason=nonsense", status: 400},
	}
}

// asynqmons are pages of asynqmon.
func asynqmons(letter string) []view {
	return []view{
		{name: "asynqmon", path: "/monitoring/", ready: "table tbody tr"},
		{name: "asynqmon-queue", path: "/monitoring/queues/dead-letter?status=retry", ready: "table tbody tr"},
		{name: "asynqmon-task", path: "/monitoring/queues/dead-letter/tasks/" + letter, ready: "pre"},
		{name: "asynqmon-servers", path: "/monitoring/servers", ready: "table tbody tr"},
		{name: "asynqmon-schedulers", path: "/monitoring/schedulers", ready: "main"},
		{name: "asynqmon-redis", path: "/monitoring/redis", ready: "main"},
	}
}

// finding is what axe says against a page.
type finding struct {
	ID, Impact, Help string
	Targets          []string
}

func (f finding) String() string {
	return fmt.Sprintf("%s (%s): %s at %s", f.ID, f.Impact, f.Help, strings.Join(f.Targets[:min(len(f.Targets), 5)], "; "))
}

// axe lets axe-core look at the page.
func (b *tab) axe(script string) []finding {
	b.t.Helper()
	evaluate[chromedp.Void](b, script)
	return evaluate[[]finding](b, `axe.run(document, {resultTypes: ["violations"]}).then(r => r.violations.map(v => ({
		ID: v.id, Impact: v.impact ?? "", Help: v.help, Targets: v.nodes.map(n => n.target.join(" "))})))`)
}

func axeScript(t *testing.T) string {
	t.Helper()
	path := os.Getenv("AXE_CORE")
	if path == "" {
		t.Fatal("AXE_CORE is not set; want the path of axe.min.js, as `make test-browser` sets it")
	}
	script, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(script)
}

// screenshot keeps a picture of the page, if somebody wants them.
func (b *tab) screenshot(name string) {
	b.t.Helper()
	dir := os.Getenv("SCREENSHOTS")
	if dir == "" {
		return
	}
	picture, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o600)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

const (
	wide   = 1280
	narrow = 390
)

// Every page, in light and dark, wide and narrow: no complaint of the browser (see tab), none of
// axe that is serious, and no scrolling sideways on a phone.
func (s *stage) testPages(job string) {
	t := s.t
	script := axeScript(t)
	b := s.open("alice")
	for _, v := range append(own(job), asynqmons(s.letterOf("u-10205").ID)...) {
		isOwn := v.ready == ""
		b.resize(wide, 900)
		b.scheme("light")
		if status := b.visit(v.path); status != max(v.status, 200) {
			t.Errorf("%s: status %d; want %d", v.path, status, max(v.status, 200))
		}
		if v.status != 0 {
			b.forgive() // the browser logs the status
		}
		if !isOwn {
			redistest.Eventually(t, soon, v.path+" is drawn", func() bool { return b.count(v.ready) > 0 })
		}
		for _, scheme := range []string{"light", "dark"} {
			b.scheme(scheme)
			for _, width := range []int64{wide, narrow} {
				b.resize(width, 900)
				where := fmt.Sprintf("%s, %s, %d px", v.path, scheme, width)
				// Colors depend on the scheme, the layout on the width. asynqmon's pages are what they are.
				if scheme == "light" && width == wide || scheme == "dark" && width == narrow && isOwn {
					for _, f := range b.axe(script) {
						if isOwn && (f.Impact == "serious" || f.Impact == "critical") {
							t.Errorf("%s: %s", where, f)
						} else {
							t.Logf("%s: %s", where, f)
						}
					}
				}
				if content := evaluate[int64](b, `Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)`); content > width {
					t.Errorf("%s: the content is %d px wide; want no scrolling sideways", where, content)
				}
				b.screenshot(fmt.Sprintf("%s-%d-%s", v.name, width, scheme))
			}
		}
	}
}
