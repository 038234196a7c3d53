//go:build browser

package browsertest

import (
	"context"
	"testing"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"

	"github.com/kooworker/kooworker/internal/redistest"
)

// clickOn clicks on an element without waiting for another page: asynqmon is one page.
func clickOn(selector string) chromedp.Action[chromedp.Void] {
	return chromedp.Click(chromedp.CSS(selector))
}

// hover moves the mouse over an element.
func (b *tab) hover(selector string) {
	b.t.Helper()
	at := evaluate[[]float64](b, `(e => {
		e.scrollIntoView({block: "center", inline: "center"});
		const r = e.getBoundingClientRect();
		return [r.x + r.width / 2, r.y + r.height / 2];
	})(document.querySelector(`+quote(selector)+`))`)
	b.do(chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		_, err := chromedp.Call(ctx, input.DispatchMouseEvent, input.DispatchMouseEventParams{Type: input.DispatchMouseEventTypeMouseMoved, X: at[0], Y: at[1]})
		return err
	}))
}

// An operator runs one dead letter in asynqmon: the worker replays it, and no other.
func TestBrowser_RunInAsynqmon(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.startWorker()
	s.deadLetters("", map[string]int{"u-1": 3})
	b := s.open("alice")
	b.see("/")
	b.click(`a[href="/monitoring/"]`)
	redistest.Eventually(t, soon, "asynqmon lists the queues", func() bool { return b.count(`a[href="/monitoring/queues/dead-letter"]`) > 0 })
	b.see("/monitoring/queues/dead-letter?status=retry")
	redistest.Eventually(t, soon, "asynqmon lists the letters", func() bool { return b.count("table tbody tr") == 3 })
	b.want("main", "forbidden")
	const run = `table tbody tr button[title="Run"]`
	b.hover("table tbody tr td:last-child")
	redistest.Eventually(t, soon, "the row has its buttons", func() bool { return b.count(run) > 0 })
	b.do(clickOn(run))
	redistest.Eventually(t, soon, "the device is gone", func() bool { return s.devices("u-1") == 2 })
	s.awaitLetters(2)
	for _, e := range s.changes() {
		if e.By == "alice" && e.Via == "asynqmon" {
			b.see("/audit")
			b.want("main", "asynqmon")
			return
		}
	}
	t.Errorf("the audit log has %+v; want the run by alice in asynqmon", s.changes())
}
