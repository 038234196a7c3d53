package dashboard_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"golang.org/x/crypto/bcrypt"

	"github.com/kooworker/kooworker/enqueue/history"
	"github.com/kooworker/kooworker/internal/pauses"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/audit"
	"github.com/kooworker/kooworker/worker/dashboard"
	"github.com/kooworker/kooworker/worker/dashboard/access"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

// site is a dashboard with its Redis: alice is an operator, bob a viewer.
type site struct {
	t     *testing.T
	redis *redistest.Server
	http  *httptest.Server
	audit *audit.Log
}

func serve(t *testing.T, external string) *site {
	t.Helper()
	return serveOver(t, external, redistest.Start(t))
}

func serveOver(t *testing.T, external string, server *redistest.Server) *site {
	t.Helper()
	var lines strings.Builder
	for name, role := range map[string]string{"alice": "operator", "bob": "viewer"} {
		hash, err := bcrypt.GenerateFromPassword([]byte("pw-"+name), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		lines.WriteString(name + ":" + string(hash) + ":" + role + "\n")
	}
	path := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(path, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	users, err := access.OpenUsers(path, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	var outside *url.URL
	if external != "" {
		if outside, err = url.Parse(external); err != nil {
			t.Fatal(err)
		}
	}
	door, err := access.New(access.Config{Users: users, External: outside, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, redis: server}
	s.audit = audit.New(s.redis.Client(), zap.NewNop())
	d, err := dashboard.New(dashboard.Config{Redis: s.redis.Client(), Access: door, External: outside, Version: "v1.2.3", Logger: zap.NewNop(), Audit: s.audit})
	if err != nil {
		t.Fatal(err)
	}
	s.http = httptest.NewServer(d)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); d.Run(ctx) }()
	t.Cleanup(func() {
		s.http.Close()
		cancel()
		<-ended
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// answer is what the dashboard answers, without following redirects.
type answer struct {
	code   int
	header http.Header
	body   string
}

func (s *site) do(user, method, path string, form url.Values, headers ...string) answer {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.http.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		s.t.Fatal(err)
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	if user != "" {
		r.SetBasicAuth(user, "pw-"+user)
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

func (s *site) get(path string) answer { s.t.Helper(); return s.do("bob", "GET", path, nil) }

// changes returns the audit log, the latest first.
func (s *site) changes() []audit.Entry {
	s.t.Helper()
	page, err := s.audit.List(s.t.Context(), "", 100)
	if err != nil {
		s.t.Fatal(err)
	}
	return page.Entries
}

// Every page that a viewer finds in the menu.
var pages = []string{"/", "/dead", "/jobs", "/batches", "/user", "/locks", "/queues", "/audit"}

// Every change.
var changes = []string{"/queues/pause", "/queues/resume", "/locks/sweep", "/dead/replay", "/dead/discard", "/jobs/x/stop", "/batches/x/cancel", "/batches/x/hold", "/batches/x/release"}

func TestDashboard_EveryPageAsksWhoItIs(t *testing.T) {
	t.Parallel()
	s := serve(t, "")
	for _, path := range append(pages, "/assets/style.css", "/nothing", "/monitoring/") {
		if a := s.do("", "GET", path, nil); a.code != http.StatusUnauthorized || strings.Contains(a.body, "<html") {
			t.Errorf("%s without a login: status %d; want 401, and no page", path, a.code)
		}
	}
	if a := s.do("", "GET", "/healthz", nil); a.code != http.StatusOK || a.body != "{\"status\":\"ok\"}\n" {
		t.Errorf("/healthz: %+v; want 200 for a supervisor without a login", a)
	}
}

func TestDashboard_PagesOfAViewer(t *testing.T) {
	t.Parallel()
	s := serve(t, "")
	for _, path := range pages {
		a := s.get(path)
		if a.code != http.StatusOK || !strings.Contains(a.body, "bob, viewer") && !strings.Contains(a.body, "<bdi>bob</bdi>, viewer") {
			t.Errorf("%s: status %d; want the page for bob, a viewer", path, a.code)
		}
		if strings.Contains(a.body, `method="post"`) {
			t.Errorf("%s shows a viewer a form that changes something", path)
		}
		if policy := a.header.Get("Content-Security-Policy"); policy != access.Policy {
			t.Errorf("%s has the policy %q; want %q", path, policy, access.Policy)
		}
		for _, inline := range []string{" style=", "<style", "<script>", " onclick=", "javascript:"} {
			if strings.Contains(a.body, inline) {
				t.Errorf("%s has %q, which the policy forbids", path, inline)
			}
		}
	}
	for _, path := range changes {
		for _, method := range []string{"POST", "PUT", "DELETE"} {
			if a := s.do("bob", method, path, url.Values{"queue": {"unbind"}, "source": {"ledger"}, "why": {"x"}}); a.code != http.StatusForbidden {
				t.Errorf("%s %s as a viewer: status %d; want 403", method, path, a.code)
			}
		}
		if a := s.do("alice", "POST", path, url.Values{"queue": {"unbind"}, "source": {"ledger"}, "why": {"x"}}, "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"); a.code != http.StatusForbidden {
			t.Errorf("%s from a page of another site: status %d; want 403", path, a.code)
		}
	}
	if paused, err := pauses.Read(t.Context(), s.redis.Client()); err != nil || len(paused) > 0 || len(s.changes()) > 0 {
		t.Errorf("%d lanes are paused, %d changes, %v; want none", len(paused), len(s.changes()), err)
	}
	for _, path := range []string{"//queues/pause", "/queues/../queues/pause", "//monitoring/api/queues/unbind:pause"} {
		if a := s.do("bob", "POST", path, nil); a.code != http.StatusForbidden || a.header.Get("Location") != "" {
			t.Errorf("%s as a viewer: %d to %q; want 403", path, a.code, a.header.Get("Location"))
		}
	}
	if a := s.do("", "GET", "//evil.example/", nil); a.code != http.StatusUnauthorized || a.header.Get("X-Frame-Options") != "DENY" {
		t.Errorf("an unclean path without a login: %d; want 401, with the headers of all answers", a.code)
	}
	if a := s.get("/nothing"); a.code != http.StatusNotFound || !strings.Contains(a.body, "there is no such page") {
		t.Errorf("a page that does not exist: %d; want 404, and a page that says so", a.code)
	}
}

func TestDashboard_PauseAndResume(t *testing.T) {
	t.Parallel()
	s := serve(t, "")
	form := url.Values{"queue": {"unbind"}, "for": {"4h"}, "why": {"INC-17: <wrong> file"}}
	a := s.do("alice", "POST", "/queues/pause", form)
	if a.code != http.StatusSeeOther || a.header.Get("Location") != "/queues?done=paused" {
		t.Fatalf("%+v; want a redirect to the queues", a)
	}
	paused, err := pauses.Read(t.Context(), s.redis.Client())
	if err != nil {
		t.Fatal(err)
	}
	groups := paused.Groups()
	if len(groups) != 1 || !groups[0].IsWhole() || groups[0].By != "alice" || groups[0].Reason != "INC-17: <wrong> file" || time.Until(groups[0].Until) > 4*time.Hour {
		t.Errorf("%+v; want the queue unbind paused by alice", groups)
	}
	for _, path := range []string{"/queues", "/"} {
		if body := s.get(path).body; !strings.Contains(body, "INC-17: &lt;wrong&gt; file") || !strings.Contains(body, "by alice") {
			t.Errorf("%s does not say who has paused the queue, and why", path)
		}
	}
	if a := s.do("alice", "POST", "/queues/resume", url.Values{"queue": {"all"}}); a.code != http.StatusSeeOther {
		t.Errorf("%+v; want a redirect", a)
	}
	if paused, err := pauses.Read(t.Context(), s.redis.Client()); err != nil || len(paused) > 0 {
		t.Errorf("%d lanes are paused, %v; want none", len(paused), err)
	}
	all := s.changes()
	if len(all) != 2 || all[1].By != "alice" || all[1].Via != audit.Dashboard || all[1].Action != "queues paused" || all[1].Subject != "unbind" || all[1].Reason != form.Get("why") {
		t.Errorf("the audit log has %+v; want the pause and the resume", all)
	}
	if body := s.get("/audit").body; !strings.Contains(body, "queues paused") || !strings.Contains(body, "INC-17: &lt;wrong&gt; file") {
		t.Error("the page of the audit log does not show the pause")
	}
	for name, form := range map[string]url.Values{
		"no reason":      {"queue": {"unbind"}},
		"no such queue":  {"queue": {"<x>"}, "why": {"x"}},
		"a long reason":  {"queue": {"unbind"}, "why": {strings.Repeat("x", 10_000)}},
		"two lines":      {"queue": {"unbind"}, "why": {"a\nb"}},
		"for too long":   {"queue": {"unbind"}, "why": {"x"}, "for": {"100000h"}},
		"for a nonsense": {"queue": {"unbind"}, "why": {"x"}, "for": {"soon"}},
	} {
		if a := s.do("alice", "POST", "/queues/pause", form); a.code != http.StatusBadRequest || !strings.Contains(a.body, "want") && !strings.Contains(a.body, "the queues are") {
			t.Errorf("%s: status %d; want 400, and a page that says what would be right", name, a.code)
		}
	}
}

// Behind a proxy all links have the prefix, whether or not the proxy takes it off.
func TestDashboard_Prefix(t *testing.T) {
	t.Parallel()
	s := serve(t, "https://ops.example.com/koo/worker")
	for _, path := range []string{"/koo/worker/queues", "/queues"} {
		a := s.get(path)
		if a.code != http.StatusOK || !strings.Contains(a.body, `href="/koo/worker/assets/style.css"`) || strings.Contains(a.body, `="/queues`) {
			t.Errorf("%s: status %d; want the page with the prefix in all links", path, a.code)
		}
	}
	if a := s.get("/koo/worker/assets/style.css"); a.code != http.StatusOK {
		t.Errorf("the stylesheet: status %d; want 200", a.code)
	}
	if a := s.get("/koo/worker"); a.code != http.StatusMovedPermanently || a.header.Get("Location") != "/koo/worker/" {
		t.Errorf("the prefix alone: %+v; want a redirect to /koo/worker/", a)
	}
	a := s.do("alice", "POST", "/koo/worker/queues/pause", url.Values{"queue": {"unbind"}, "why": {"x"}}, "Origin", "https://ops.example.com")
	if a.code != http.StatusSeeOther || a.header.Get("Location") != "/koo/worker/queues?done=paused" {
		t.Errorf("%+v; want a redirect below the prefix", a)
	}
}

// What strangers have written is shown, and does nothing.
func TestDashboard_HostileText(t *testing.T) {
	t.Parallel()
	s := serve(t, "")
	rdb := s.redis.Client()
	user := `<script>alert(1)</script>"'&` + "\u202etxt.exe\u2066\u200b" + strings.Repeat("x", 10_000)
	receipt := tasks.Receipt{Kind: tasks.KindDeviceUnbind, UserID: user, Target: user, Outcome: tasks.Succeeded, Reason: tasks.OK, At: time.Now(), Device: &tasks.Device{DeviceName: user}, Source: tasks.FromSingle}
	if err := history.NewStore(rdb).Record(t.Context(), []tasks.Receipt{receipt}, time.Hour); err != nil {
		t.Fatal(err)
	}
	s.audit.Record(t.Context(), audit.Entry{By: user, Via: user, Action: user, Subject: user, Reason: user, Error: user})
	for _, path := range []string{"/user?user_id=" + url.QueryEscape(user), "/audit", "/locks?user_id=" + url.QueryEscape(user), "/batches?user_id=" + url.QueryEscape(user)} {
		a := s.get(path)
		if a.code != http.StatusOK {
			t.Errorf("%.20s: status %d; want 200", path, a.code)
		}
		for _, harm := range []string{"<script>alert", "\u202e", "\u2066", "\u200b"} {
			for part := range strings.SplitSeq(a.body, "<input ") { // a field has what was typed into it
				if _, rest, ok := strings.Cut(part, ">"); ok && strings.Contains(rest, harm) {
					t.Errorf("%.20s shows %q as it is", path, harm)
				}
			}
		}
		if strings.Contains(a.body, strings.Repeat("x", 1000)+"<") {
			t.Errorf("%.20s shows all of a very long text", path)
		}
	}
}

func TestDashboard_RedisIsAway(t *testing.T) {
	t.Parallel()
	s := serve(t, "")
	s.redis.Kill()
	for _, path := range []string{"/", "/queues", "/batches", "/audit"} {
		if a := s.get(path); a.code != http.StatusServiceUnavailable || !strings.Contains(a.body, "Redis does not answer") || !strings.Contains(a.body, "What to do") {
			t.Errorf("%s: status %d; want 503, and a page that names the cause and what to do", path, a.code)
		}
	}
}
