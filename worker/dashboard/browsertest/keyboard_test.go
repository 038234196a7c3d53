//go:build browser

package browsertest

import (
	"slices"
	"strings"

	"github.com/chromedp/chromedp/kb"
)

// focused describes what has the focus: its ID, else its text.
const focused = `(e => e.id ? "#" + e.id : (e.innerText ?? "").trim())(document.activeElement)`

func (s *stage) testKeyboard() {
	t := s.t
	b := s.open("alice")
	b.see("/dead")
	var order []string
	for range 40 {
		b.press(kb.Tab)
		order = append(order, evaluate[string](b, focused))
		if !evaluate[bool](b, `document.activeElement.matches(":focus-visible") && getComputedStyle(document.activeElement).outlineStyle !== "none"`) {
			t.Errorf("%q does not show that it has the focus", order[len(order)-1])
		}
	}
	at := -1
	for _, want := range []string{"Skip to the content", "kooworker", "Now", "Audit", "asynqmon", "#reason", "#user-id", "Filter", "Replay everything that matches…", "Discard everything that matches…"} {
		i := slices.Index(order, want)
		if i <= at {
			t.Errorf("Tab comes to %q; want %q after what is before it", order, want)
		}
		at = i
	}

	// The skip link leads past the menu.
	b.see("/dead")
	b.press(kb.Tab)
	b.press(kb.Enter)
	b.press(kb.Tab)
	if !evaluate[bool](b, `document.activeElement.closest("main") !== null`) {
		t.Errorf("after the skip link, Tab comes to %q; want something of the page itself", evaluate[string](b, focused))
	}

	// Every form can be sent by Enter, from its text field.
	for _, f := range []struct{ page, field, text, leadsTo string }{
		{"/dead", "#user-id", "u-10202", "/dead?"},
		{"/dead/replay?user_id=u-10202", "#reason", "granted", "/jobs/"},
		{"/dead/discard?user_id=u-10203", "#reason", "closed", "/jobs/"},
		{"/batches", "#batch-id", "deletions-2026-11", "/batches/deletions-2026-11"},
		{"/batches", "#user-id", "u-10202", "/batches?user_id="},
		{"/batches/deletions-2026-11", "#hold-reason", "a moment", "/batches/deletions-2026-11?done=held"},
		{"/batches/deletions-2026-11", "#release-reason", "go on", "/batches/deletions-2026-11?done=released"},
		{"/batches/deletions-2026-11/cancel", "#reason", "wrong file", "/batches/deletions-2026-11?done=cancelled"},
		{"/user", "#user-id", "u-10202", "/user?user_id="},
		{"/locks", "#user-id", "u-10151", "/locks?user_id="},
		{"/locks", "#sweep-reason", "stuck", "/locks?done=sweep"},
		{"/queues", "#pause-reason", "a moment", "/queues?done=paused"},
		{"/queues", "#resume-reason", "go on", "/queues?done=resumed"},
	} {
		b.see(f.page)
		b.write(f.field, f.text)
		if status := b.enter(f.field); status != 200 || !strings.HasPrefix(b.path(), f.leadsTo) {
			t.Errorf("Enter in %s of %s leads to %s, status %d; want %s", f.field, f.page, b.path(), status, f.leadsTo)
		}
	}
}
