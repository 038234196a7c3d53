package dashboard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/bulk"
	"github.com/kooworker/kooworker/worker/dashboard/access"
	"github.com/kooworker/kooworker/worker/dashboard/chart"
	"github.com/kooworker/kooworker/worker/overview"
)

// handler answers a request with a page, a redirect or a download.
type handler func(r *http.Request, user access.User) (reply, error)

// reply is one of these: a page, a redirect, a download.
type reply struct {
	page  string // the name of its template
	title string
	data  any
	// reload: the script asks for the page's changing parts again after this time; 0: it does not.
	reload time.Duration

	redirect string // a path of the dashboard

	download func(ctx context.Context, w http.ResponseWriter) error // takes as long as it takes
}

// view is what a template gets.
type view struct {
	Title    string
	Page     string
	User     access.User
	Data     any
	Notice   string // what has just been done
	Now      time.Time
	Version  string
	ReloadMS int64
	d        *Dashboard
}

const (
	// pageTimeout bounds how long a page may take, and maxForm how long a form may be.
	pageTimeout = 10 * time.Second
	maxForm     = 64 << 10
	// maxReason is how many characters the reason of a change has at most.
	maxReason = 200
)

// page makes an access.Handler of a handler.
func (d *Dashboard) page(h handler) access.Handler {
	return func(w http.ResponseWriter, r *http.Request, user access.User) {
		whole := r.Context() // of the request; a page has less time
		ctx, cancel := context.WithTimeoutCause(whole, pageTimeout, fmt.Errorf("no answer within %s", pageTimeout))
		defer cancel()
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		r = r.WithContext(ctx)
		if err := r.ParseForm(); err != nil {
			d.showError(w, r, user, badRequest("the form cannot be read: %v", err))
			return
		}
		out, err := h(r, user)
		switch {
		case whole.Err() != nil: // the browser has gone
		case err != nil:
			d.showError(w, r, user, err)
		case out.redirect != "":
			http.Redirect(w, r, d.prefix+out.redirect, http.StatusSeeOther)
		case out.download != nil:
			if err := out.download(whole, w); err != nil {
				d.cfg.Logger.Warn("a download has ended early", zap.String("path", r.URL.Path), zap.Error(err))
				panic(http.ErrAbortHandler) // so that the browser knows that it is not complete
			}
		default:
			d.show(w, r, http.StatusOK, view{Title: out.title, Page: out.page, User: user, Data: out.data, ReloadMS: out.reload.Milliseconds()})
		}
	}
}

// show renders a page. It is written only when it is whole.
func (d *Dashboard) show(w http.ResponseWriter, r *http.Request, status int, v view) {
	v.d, v.Now, v.Version, v.Notice = d, time.Now().UTC(), d.cfg.Version, notices[r.URL.Query().Get("done")]
	var body bytes.Buffer
	if err := d.pages[v.Page].ExecuteTemplate(&body, "layout.html", v); err != nil {
		d.cfg.Logger.Error("cannot render a page", zap.String("page", v.Page), zap.Error(err))
		http.Error(w, "this page cannot be rendered; the log of the dashboard says why", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = body.WriteTo(w) // fails if the browser has gone
}

// problem is an error page.
type problem struct {
	Text, Hint string
}

// errNotFound is for a page, or a thing, that does not exist.
var errNotFound = errors.New("there is no such page")

// errAway is for a Redis that does not answer.
var errAway = errors.New("Redis does not answer") //nolint:staticcheck // Redis is a name

// errViewer is for a page on which one changes something.
var errViewer = errors.New("you are a viewer, and only an operator may change something")

// requestError is what is wrong with a request.
type requestError struct{ text string }

func (e *requestError) Error() string { return e.text }

func badRequest(format string, args ...any) error { return &requestError{fmt.Sprintf(format, args...)} }

func (d *Dashboard) showError(w http.ResponseWriter, r *http.Request, user access.User, err error) {
	status, p := http.StatusServiceUnavailable, problem{Text: err.Error()}
	if hinted, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		p.Hint = hinted.Hint()
	}
	_, isRequest := errors.AsType[*requestError](err)
	_, isField := errors.AsType[*tasks.FieldError](err)
	_, isMissing := errors.AsType[*batch.NotFoundError](err)
	switch {
	case errors.Is(err, errViewer):
		status = http.StatusForbidden
	case errors.Is(err, errNotFound), errors.Is(err, bulk.ErrNotFound), isMissing:
		status = http.StatusNotFound
	case isRequest, isField:
		status = http.StatusBadRequest
	case errors.Is(err, errAway), asynqx.IsUnavailable(err):
		cause := overview.Unreachable(err)
		p = problem{Text: cause.Text, Hint: cause.Hint}
		d.cfg.Logger.Warn("a page cannot be shown", zap.String("path", r.URL.Path), zap.Error(err))
	default:
		if !errors.Is(err, errStopping) {
			status = http.StatusInternalServerError
		}
		d.cfg.Logger.Error("a page cannot be shown", zap.String("path", r.URL.Path), zap.Error(err))
	}
	d.show(w, r, status, view{Title: "Error", Page: "error.html", User: user, Data: p})
}

// notices are what a page may say about what has just been done, by the value of the query
// "done": nobody else can put words into a page.
var notices = map[string]string{
	"paused":    "Paused. Tasks that have begun finish.",
	"resumed":   "Resumed.",
	"cancelled": "Cancelled: nothing more of the batch begins. What is in flight finishes.",
	"held":      "Held: nothing more of the batch begins until it is released.",
	"released":  "Released: what waits of the batch runs.",
	"sweep":     "A sweep is enqueued. A worker carries it out; its result appears here.",
}

// parse reads the templates.
func (d *Dashboard) parse() (map[string]*template.Template, error) {
	layout, err := template.New("layout.html").Funcs(functions).ParseFS(templateFiles, "templates/layout.html", "templates/parts.html")
	if err != nil {
		return nil, fmt.Errorf("dashboard: %w", err)
	}
	names, err := templateFiles.ReadDir("templates")
	if err != nil {
		return nil, fmt.Errorf("dashboard: %w", err)
	}
	pages := make(map[string]*template.Template)
	for _, file := range names {
		if file.Name() == "layout.html" || file.Name() == "parts.html" {
			continue
		}
		clone, err := layout.Clone()
		if err == nil {
			pages[file.Name()], err = clone.ParseFS(templateFiles, "templates/"+file.Name())
		}
		if err != nil {
			return nil, fmt.Errorf("dashboard: %w", err)
		}
	}
	return pages, nil
}

// Path returns the path of a page, such as Path "batches" .ID. Its parts are escaped.
func (v view) Path(parts ...string) string {
	if len(parts) == 0 {
		return v.d.prefix + "/"
	}
	var out strings.Builder
	out.WriteString(v.d.prefix)
	for _, part := range parts {
		out.WriteString("/" + url.PathEscape(part))
	}
	return out.String()
}

// Link returns the path of a page with a query of names and values.
func (v view) Link(page string, pairs ...string) string {
	query := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			query.Set(pairs[i], pairs[i+1])
		}
	}
	if len(query) == 0 {
		return v.Path(page)
	}
	return v.Path(page) + "?" + query.Encode()
}

// With returns the path of a page with a query that is encoded already. A template must not join the
// two: html/template encodes what follows a "?" once more.
func (v view) With(query string, parts ...string) string {
	if query == "" {
		return v.Path(parts...)
	}
	return v.Path(parts...) + "?" + query
}

// menu is the order of the pages in the menu: path, name and the templates that belong to it.
var menu = []struct {
	Path, Name string
	Pages      []string
}{
	{"", "Now", []string{"now.html"}},
	{"dead", "Dead letters", []string{"dead.html", "order.html"}},
	{"jobs", "Jobs", []string{"jobs.html", "job.html"}},
	{"batches", "Batches", []string{"batches.html", "batch.html", "cancel.html"}},
	{"user", "User", []string{"user.html"}},
	{"locks", "Stale locks", []string{"locks.html"}},
	{"queues", "Queues", []string{"queues.html"}},
	{"audit", "Audit", []string{"audit.html"}},
}

// item is an entry of the menu.
type item struct {
	Href, Name string
	Current    bool
}

// Menu returns the menu.
func (v view) Menu() (items []item) {
	for _, m := range menu {
		href := v.Path()
		if m.Path != "" {
			href = v.Path(m.Path)
		}
		items = append(items, item{href, m.Name, slices.Contains(m.Pages, v.Page)})
	}
	return items
}

// asset serves a file of the pages' own.
func (d *Dashboard) asset(w http.ResponseWriter, r *http.Request, _ access.User) {
	name := r.PathValue("name")
	data, err := assetFiles.ReadFile("assets/" + path.Base(name))
	if name == "style.css" {
		data = append(data, chart.CSS...)
	}
	kind := map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}[path.Ext(name)]
	if err != nil || kind == "" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write(data) //nolint:gosec // a file of ours; it fails if the browser has gone
}

// formText returns a field of a form: one line, without blanks around it.
func formText(r *http.Request, name string, most int) (string, error) {
	text := strings.TrimSpace(r.PostFormValue(name))
	if n := len([]rune(text)); n > most {
		return "", badRequest("%s: it has %d characters; want at most %d", name, n, most)
	}
	if text != printable(text) {
		return "", badRequest("%s: want one line of printable text", name)
	}
	return text, nil
}
