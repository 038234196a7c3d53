package monitoring

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"
	"strings"

	"github.com/hibiken/asynq"
	"github.com/hibiken/asynqmon"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/worker/audit"
	"github.com/kooworker/kooworker/worker/dashboard/access"
)

// Config configures a Handler.
type Config struct {
	// Redis is where the queues are: a *redis.Client or a *redis.ClusterClient. It stays the
	// caller's to close. Required.
	Redis redis.UniversalClient
	// RootPath is the path that the Handler is mounted at, as the browser sees it,
	// without a slash at its end: /monitoring or /koo/monitoring, for example.
	// Required.
	RootPath string
	// Discard deletes the dead letters of these IDs, after it has told the ledger. It
	// returns how many it has deleted; those that have changed meanwhile stay. It
	// writes no audit entry. Required.
	Discard func(ctx context.Context, ids []string) (int, error)
	// Audit takes an entry after each change: Record of an audit.Log. Required.
	Audit func(ctx context.Context, e audit.Entry)
	// Links are shown on top of each page, the most important first. On a narrow
	// screen only the first is shown.
	Links []Link
}

// Link leads to a page of ours.
type Link struct {
	Text string
	Path string // with the path prefix, if there is one
}

// The actions of audit entries.
const (
	actionPause   = "queue paused"
	actionResume  = "queue resumed"
	actionRun     = "tasks run"
	actionReplay  = "dead letters replayed"
	actionDiscard = "dead letters discarded"
)

// Handler serves asynqmon. It is safe for concurrent use.
type Handler struct {
	cfg       Config
	asynqmon  http.Handler // read-only, and asked by GET only
	inspector *asynq.Inspector
	// The pages of viewers and of operators differ: a viewer's has no buttons.
	viewerPage, operatorPage page
}

// New returns a Handler.
func New(cfg Config) (*Handler, error) {
	switch cfg.Redis.(type) {
	case *redis.Client, *redis.ClusterClient:
	default:
		return nil, fmt.Errorf("monitoring: Redis is a %T; want a *redis.Client or *redis.ClusterClient", cfg.Redis)
	}
	if cfg.Discard == nil || cfg.Audit == nil {
		return nil, errors.New("monitoring: Discard and Audit are required")
	}
	if !strings.HasPrefix(cfg.RootPath, "/") || path.Clean(cfg.RootPath) != cfg.RootPath || cfg.RootPath == "/" {
		return nil, fmt.Errorf("monitoring: RootPath is %q; want a path such as /monitoring", cfg.RootPath)
	}
	h := &Handler{cfg: cfg, asynqmon: newAsynqmon(cfg, true), inspector: asynq.NewInspectorFromRedisClient(cfg.Redis)}
	var err error
	if h.viewerPage, err = newPage(cfg, h.asynqmon); err != nil {
		return nil, err
	}
	// This asynqmon would carry out changes. It only renders the page, and is dropped.
	if h.operatorPage, err = newPage(cfg, newAsynqmon(cfg, false)); err != nil {
		return nil, err
	}
	return h, nil
}

// Close releases what the Handler holds. It does not close the client of Redis, so
// asynqmon's Close, which would, is never called.
func (h *Handler) Close() error { return nil }

func newAsynqmon(cfg Config, readOnly bool) http.Handler {
	return asynqmon.New(asynqmon.Options{
		RootPath: cfg.RootPath, RedisConnOpt: sharedClient{cfg.Redis}, ReadOnly: readOnly,
		PayloadFormatter: asynqmon.PayloadFormatterFunc(formatPayload),
		ResultFormatter:  asynqmon.ResultFormatterFunc(formatPayload),
	})
}

// sharedClient gives asynqmon the caller's client.
type sharedClient struct{ rdb redis.UniversalClient }

// MakeRedisClient implements asynq.RedisConnOpt.
func (s sharedClient) MakeRedisClient() any { return s.rdb }

// relativeTo returns the part of a path below the root path. A reverse proxy may have
// taken the prefix off: then the path begins with the last part of the root path.
func relativeTo(root, requested string) (rel string, ok bool) {
	for _, prefix := range []string{root, "/" + path.Base(root)} {
		if rel, ok = strings.CutPrefix(requested, prefix); ok && (rel == "" || rel[0] == '/') {
			return rel, true
		}
	}
	return "", false
}

// Serve answers a request whose path begins with the root path, or with the last part
// of it.
func (h *Handler) Serve(w http.ResponseWriter, r *http.Request, user access.User) {
	setHeaders(w.Header())
	rel, ok := relativeTo(h.cfg.RootPath, r.URL.Path)
	if !ok {
		fail(w, http.StatusNotFound, "There is no such page.")
		return
	}
	endpoint, isAPI := strings.CutPrefix(rel, "/api/")
	switch reads := r.Method == http.MethodGet || r.Method == http.MethodHead; {
	case !reads && !user.IsOperator():
		fail(w, http.StatusForbidden, "You may look, and change nothing: your role is viewer. An operator can do it.")
	case !reads && !isAPI:
		fail(w, http.StatusForbidden, "Pages are only read, by GET.")
	case !reads:
		h.act(w, r, user, parseAction(r.Method, endpoint))
	case isAPI:
		h.read(w, r, endpoint)
	default:
		h.servePage(w, r, user, rel)
	}
}

// fail answers with a text. asynqmon's UI shows it as it is.
func fail(w http.ResponseWriter, code int, text string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text + "\n")) //nolint:gosec // plain text, and nosniff; it fails if the client has gone
}
