package monitoring

import (
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"path"
	"regexp"
	"strings"

	"github.com/kooworker/kooworker/worker/dashboard/access"
)

//go:embed assets
var assets embed.FS

// ownPath is where our script and stylesheet are, below the root path.
const ownPath = "/kooworker/"

// metricsPage shows what asynqmon reads from a Prometheus, if it has one. No link leads there.
const metricsPage = "/q/metrics"

// page is asynqmon's index.html, rewritten, with a mark where the nonce belongs.
type page string

// nonceMark stands for the nonce. It holds what no page of asynqmon's has.
const nonceMark = "{{kooworker-nonce}}"

var (
	// linkElsewhere is what the page loads from another host (fonts), and the manifest
	// of an app, which browsers load without credentials.
	linkElsewhere = regexp.MustCompile(`<link [^>]*(?:https?://|rel="manifest")[^>]*>`)
	// features are what the rewriting builds on. Another asynqmon may not have it.
	features = []string{"</head>", `<div id="root"></div>`, "<script>", "<script src="}
)

// newPage asks an asynqmon for its index.html and rewrites it.
func newPage(cfg Config, asynqmon http.Handler) (page, error) {
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "/", http.NoBody)
	if err != nil {
		return "", fmt.Errorf("monitoring: %w", err)
	}
	rec := &recorder{header: make(http.Header), code: http.StatusOK}
	ask(r, asynqmon, rec, cfg.RootPath+"/", nil)
	text := linkElsewhere.ReplaceAllString(rec.body.String(), "")
	for _, feature := range features {
		if rec.code != http.StatusOK || !strings.Contains(text, feature) {
			return "", fmt.Errorf("monitoring: asynqmon's index.html has no %q; want that of asynqmon v0.7.2", feature)
		}
	}
	if strings.Contains(text, "https://") || strings.Contains(text, "http://") {
		return "", errors.New("monitoring: asynqmon's index.html names another host; want that of asynqmon v0.7.2")
	}
	var head, body strings.Builder
	data := struct {
		Own, Nonce string
		Links      []Link
	}{cfg.RootPath + ownPath, nonceMark, cfg.Links}
	tmpl, err := template.ParseFS(assets, "assets/*.html")
	if err == nil {
		err = errors.Join(tmpl.ExecuteTemplate(&head, "head.html", data), tmpl.ExecuteTemplate(&body, "body.html", data))
	}
	if err != nil {
		return "", fmt.Errorf("monitoring: the page: %w", err)
	}
	return page(strings.NewReplacer(
		"</head>", strings.TrimSpace(head.String())+"</head>",
		`<div id="root"></div>`, `<div id="root"></div>`+strings.TrimSpace(body.String()),
		"<script", `<script nonce="`+nonceMark+`"`,
	).Replace(text)), nil
}

// servePage serves the page, or one of the files that it loads. Every path that is no file is a
// deep link: the page's script reads it.
func (h *Handler) servePage(w http.ResponseWriter, r *http.Request, user access.User, rel string) {
	if name, ok := strings.CutPrefix(rel, ownPath); ok {
		content, err := assets.ReadFile("assets/" + name)
		if err != nil || path.Ext(name) == ".html" {
			fail(w, http.StatusNotFound, "There is no such file.")
			return
		}
		serveFile(w, rel, content)
		return
	}
	if rel == metricsPage {
		http.Redirect(w, r, h.cfg.RootPath+"/", http.StatusSeeOther)
		return
	}
	if path.Ext(rel) != "" { // perhaps a file; a task's ID may have a dot as well
		rec := h.ask(r, path.Clean(rel), nil)
		// asynqmon gives each file a type. It answers with its own page, which has
		// none, if there is no such file.
		if kind := rec.header.Get("Content-Type"); rec.code == http.StatusOK && kind != "" && !strings.HasPrefix(kind, "text/html") {
			serveFile(w, rel, rec.body.Bytes())
			return
		}
	}
	if strings.HasPrefix(rel, "/static/") {
		fail(w, http.StatusNotFound, "There is no such file.")
		return
	}
	p := h.viewerPage
	if user.IsOperator() {
		p = h.operatorPage
	}
	p.serve(w)
}

func (p page) serve(w http.ResponseWriter) {
	nonce := rand.Text()
	h := w.Header()
	h.Set("Content-Security-Policy", pagePolicy(nonce))
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	_, _ = w.Write([]byte(strings.ReplaceAll(string(p), nonceMark, nonce))) // fails if the client has gone
}

// pagePolicy is what asynqmon's page may do. Material UI writes style elements while
// the page runs, and gives them the nonce of the page's csp-nonce.
func pagePolicy(nonce string) string {
	return "default-src 'none'; script-src 'nonce-" + nonce + "'; style-src 'self' 'nonce-" + nonce + "'; " +
		"img-src 'self' data:; font-src 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
}

// setHeaders sets what all answers have. Only the page itself gets a policy that
// allows anything.
func setHeaders(h http.Header) {
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
}

// contentTypes are those of the files. asynqmon guesses by content, and takes an SVG
// for plain text.
var contentTypes = map[string]string{
	".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".json": "application/json", ".map": "application/json",
	".svg": "image/svg+xml", ".png": "image/png", ".ico": "image/x-icon", ".txt": "text/plain; charset=utf-8",
}

func serveFile(w http.ResponseWriter, rel string, content []byte) {
	h := w.Header()
	if contentType, ok := contentTypes[path.Ext(rel)]; ok {
		h.Set("Content-Type", contentType)
	} else {
		h.Set("Content-Type", "application/octet-stream")
	}
	h.Set("Cache-Control", "private, max-age=3600")
	if strings.HasPrefix(rel, "/static/") { // their names change with their content
		h.Set("Cache-Control", "private, max-age=31536000, immutable")
	}
	_, _ = w.Write(content) //nolint:gosec // an embedded file; it fails if the client has gone
}
