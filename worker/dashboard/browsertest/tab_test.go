//go:build browser

package browsertest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/fetch"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/kooworker/kooworker/internal/redistest"
)

// tab is a page of the dashboard in a browser context of its own: no cookie, no login.
type tab struct {
	t    *testing.T
	ctx  context.Context //nolint:containedctx // chromedp's handle of the tab
	base string

	user, password string

	mu         sync.Mutex
	challenges map[fetch.RequestID]int // how often each request was asked for a password
	problems   []string
	requests   []string // method and URL
}

// tabTime bounds what a test does in one tab.
const tabTime = 90 * time.Second

// open opens a tab whose visitor logs in as a user when the dashboard asks.
func (s *stage) open(user string) *tab { s.t.Helper(); return s.openWith(user, password(user)) }

func (s *stage) openWith(user, password string) *tab {
	s.t.Helper()
	ctx, cancel := chromedp.NewContext(chromium, chromedp.WithNewBrowserContext())
	s.t.Cleanup(cancel)
	b := &tab{t: s.t, ctx: ctx, base: s.url, user: user, password: password, challenges: map[fetch.RequestID]int{}}
	if err := chromedp.Do(ctx); err != nil {
		s.t.Fatal(err)
	}
	var stop context.CancelFunc
	b.ctx, stop = context.WithTimeout(ctx, tabTime)
	s.t.Cleanup(stop)
	if err := chromedp.Listen(ctx, b.seen); err != nil {
		s.t.Fatal(err)
	}
	yes := true
	call(b, fetch.Enable, fetch.EnableParams{HandleAuthRequests: &yes})
	call(b, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{
		Source: `document.addEventListener("securitypolicyviolation", e => console.error("policy violated:", e.violatedDirective, e.blockedURI, e.sample))`,
	})
	b.resize(1280, 900)
	s.t.Cleanup(func() {
		for _, problem := range b.forgive() {
			s.t.Errorf("in the browser of %s: %s", user, problem)
		}
		if s.t.Failed() && b.ctx.Err() == nil {
			b.screenshot("failed-" + strings.ReplaceAll(s.t.Name(), "/", "-") + "-" + user)
		}
	})
	return b
}

// call runs a command of the browser.
func call[P, R any](b *tab, command cdp.Command[P, R], params P) R {
	b.t.Helper()
	result, err := chromedp.Call(b.ctx, command, params)
	if err != nil {
		b.t.Fatal(err)
	}
	return result
}

// seen is told of each event of the page.
func (b *tab) seen(event any) {
	switch e := event.(type) {
	case *fetch.EventAuthRequired:
		go b.logIn(e.RequestID)
	case *fetch.EventRequestPaused:
		go func() { // fails if the tab is closed
			_, _ = chromedp.Call(b.ctx, fetch.ContinueRequest, fetch.ContinueRequestParams{RequestID: e.RequestID})
		}()
	case *network.EventRequestWillBeSent:
		b.mu.Lock()
		b.requests = append(b.requests, e.Request.Method+" "+e.Request.URL)
		b.mu.Unlock()
		if u, err := url.Parse(e.Request.URL); err != nil || u.Scheme != "data" && u.Scheme+"://"+u.Host != b.base {
			b.problem("a request to another host: %.200s", e.Request.URL)
		}
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError {
			b.problem("%s error: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL)
		}
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeAssert {
			var text []string
			for _, arg := range e.Args {
				text = append(text, string(arg.Value), arg.Description)
			}
			b.problem("console: %s", strings.Join(text, " "))
		}
	case *runtime.EventExceptionThrown:
		b.problem("exception: %s %v", e.ExceptionDetails.Text, e.ExceptionDetails.Exception)
	case *page.EventJavascriptDialogOpening:
		b.problem("a dialog: %s", e.Message)
	}
}

func (b *tab) problem(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.problems = append(b.problems, fmt.Sprintf(format, args...))
}

// forgive forgets what the page has complained of until now, and returns it.
func (b *tab) forgive() (problems []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	problems, b.problems = b.problems, nil
	return problems
}

// logIn answers the dashboard's challenge with name and password, as a person would: one who is
// asked again gives up.
func (b *tab) logIn(request fetch.RequestID) {
	b.mu.Lock()
	b.challenges[request]++
	answer := &fetch.AuthChallengeResponse{Response: fetch.AuthChallengeResponseResponseProvideCredentials, Username: b.user, Password: b.password}
	if b.challenges[request] > 1 {
		answer = &fetch.AuthChallengeResponse{Response: fetch.AuthChallengeResponseResponseCancelAuth}
	}
	b.mu.Unlock()
	_, _ = chromedp.Call(b.ctx, fetch.ContinueWithAuth, fetch.ContinueWithAuthParams{RequestID: request, AuthChallengeResponse: answer}) // fails if the tab is closed
}

func (b *tab) challenged() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.challenges)
}

// do carries out actions that lead to no other page.
func (b *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

// visit opens a page, and returns the status.
func (b *tab) visit(path string) int {
	b.t.Helper()
	return b.follow(chromedp.Navigate(b.base + path))
}

// follow carries out actions that lead to another page, and returns its status.
func (b *tab) follow(actions ...chromedp.Action[chromedp.Void]) int {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, soon)
	defer cancel()
	answer, err := chromedp.RunResponse(ctx, actions...)
	if err != nil {
		b.t.Fatalf("no page came: %v", err)
	}
	return int(answer.Status)
}

// see opens a page that must be there.
func (b *tab) see(path string) {
	b.t.Helper()
	if status := b.visit(path); status != 200 {
		b.t.Fatalf("%s: status %d; want 200", path, status)
	}
}

// click follows a link or sends a form by its button.
func (b *tab) click(selector string) {
	b.t.Helper()
	if status := b.follow(chromedp.Click(chromedp.CSS(selector))); status != 200 {
		b.t.Fatalf("click on %s: status %d; want 200\n%s", selector, status, b.text("main"))
	}
}

// write types into a field, in place of what was there.
func (b *tab) write(selector, text string) {
	b.t.Helper()
	b.do(chromedp.Focus(chromedp.CSS(selector)))
	evaluate[chromedp.Void](b, `document.activeElement.select()`)
	b.do(chromedp.KeyEvent(kb.Delete), chromedp.KeyEvent(text))
}

// choose chooses an option of a list.
func (b *tab) choose(selector, value string) {
	b.t.Helper()
	if got := evaluate[string](b, `(e => { e.value = `+quote(value)+`; return e.value })(document.querySelector(`+quote(selector)+`))`); got != value {
		b.t.Fatalf("%s has no option %q", selector, value)
	}
}

// press presses a key.
func (b *tab) press(key string) { b.t.Helper(); b.do(chromedp.KeyEvent(key)) }

// enter presses Enter in a field, which sends the form.
func (b *tab) enter(selector string) int {
	b.t.Helper()
	b.do(chromedp.Focus(chromedp.CSS(selector)))
	return b.follow(chromedp.KeyEvent(kb.Enter))
}

// evaluate runs an expression in the page.
func evaluate[T any](b *tab, expression string) T {
	b.t.Helper()
	value, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%.200s: %v", expression, err)
	}
	return value
}

func quote(text string) string {
	out, err := json.Marshal(text)
	if err != nil {
		panic(err) // a string
	}
	return string(out)
}

// text is the text of an element as it is shown; empty if there is none.
func (b *tab) text(selector string) string {
	b.t.Helper()
	return evaluate[string](b, `document.querySelector(`+quote(selector)+`)?.innerText ?? ""`)
}

// count is how many elements match.
func (b *tab) count(selector string) int {
	b.t.Helper()
	return evaluate[int](b, `document.querySelectorAll(`+quote(selector)+`).length`)
}

// await waits until an element shows a text, without anybody touching the page.
func (b *tab) await(selector, text string) {
	b.t.Helper()
	last := ""
	defer func() {
		if b.t.Failed() {
			b.t.Logf("%s shows %q", selector, last)
		}
	}()
	redistest.Eventually(b.t, soon, fmt.Sprintf("%s shows %q", selector, text), func() bool {
		last = b.text(selector)
		return strings.Contains(last, text)
	})
}

// want fails unless an element shows a text.
func (b *tab) want(selector, text string) {
	b.t.Helper()
	if got := b.text(selector); !strings.Contains(got, text) {
		b.t.Fatalf("%s shows %q; want %q in it", selector, got, text)
	}
}

// path is the path and the query of the page.
func (b *tab) path() string {
	b.t.Helper()
	return evaluate[string](b, `location.pathname + location.search`)
}

// mark marks the page, so that loading it again can be seen.
func (b *tab) mark() { b.t.Helper(); evaluate[bool](b, `window.marked = true`) }

// isMarked reports whether it is still the page that was marked.
func (b *tab) isMarked() bool { b.t.Helper(); return evaluate[bool](b, `window.marked === true`) }

func (b *tab) resize(width, height int64) {
	b.t.Helper()
	call(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: height, DeviceScaleFactor: 1, Mobile: width < 500})
}

func (b *tab) scheme(scheme string) {
	b.t.Helper()
	call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
}
