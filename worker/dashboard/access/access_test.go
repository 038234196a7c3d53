package access_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"golang.org/x/crypto/bcrypt"

	"github.com/kooworker/kooworker/worker/dashboard/access"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// line is a line of a file of users, with a hash that costs little.
func line(t *testing.T, name, password, role string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return name + ":" + string(hash) + role + "\n"
}

// usersFile writes a file of users: alice, an operator, and bob, a viewer.
func usersFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "users")
	write(t, path, "# who may come in\n\n"+line(t, "alice", "secret-a", ":operator")+line(t, "bob", "secret-b", ""))
	return path
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func openUsers(t *testing.T, path string) *access.Users {
	t.Helper()
	users, err := access.OpenUsers(path, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	return users
}

// ask sends a request through the door. It returns the answer, and who it came from.
func ask(t *testing.T, cfg access.Config, r *http.Request) (*httptest.ResponseRecorder, access.User) {
	t.Helper()
	cfg.Logger = zap.NewNop()
	a, err := access.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var seen access.User
	w := httptest.NewRecorder()
	a.Guard(func(_ http.ResponseWriter, _ *http.Request, user access.User) { seen = user }).ServeHTTP(w, r)
	return w, seen
}

func request(method, target string, headers ...string) *http.Request {
	r := httptest.NewRequest(method, target, nil)
	r.RemoteAddr = "192.0.2.7:4711"
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

func login(r *http.Request, name, password string) *http.Request {
	r.SetBasicAuth(name, password)
	return r
}

func TestGuard_BasicAuth(t *testing.T) {
	t.Parallel()
	cfg := access.Config{Users: openUsers(t, usersFile(t))}
	for name, tt := range map[string]struct {
		r    *http.Request
		code int
		user access.User
	}{
		"no login":              {request("GET", "/"), 401, access.User{}},
		"wrong password":        {login(request("GET", "/"), "alice", "secret-b"), 401, access.User{}},
		"unknown user":          {login(request("GET", "/"), "eve", "secret-a"), 401, access.User{}},
		"no password":           {login(request("GET", "/"), "alice", ""), 401, access.User{}},
		"a viewer reads":        {login(request("GET", "/"), "bob", "secret-b"), 200, access.User{Name: "bob"}},
		"a viewer changes":      {login(request("POST", "/queues/pause"), "bob", "secret-b"), 403, access.User{}},
		"a viewer deletes":      {login(request("DELETE", "/monitoring/api/queues/x"), "bob", "secret-b"), 403, access.User{}},
		"an operator changes":   {login(request("POST", "/queues/pause"), "alice", "secret-a"), 200, access.User{Name: "alice", Role: access.Operator}},
		"a header of no proxy":  {request("GET", "/", "X-Forwarded-User", "alice"), 401, access.User{}},
		"the empty user's hash": {login(request("GET", "/"), "", ""), 401, access.User{}},
	} {
		w, user := ask(t, cfg, tt.r)
		if w.Code != tt.code || user != tt.user {
			t.Errorf("%s: status %d for %+v; want %d for %+v", name, w.Code, user, tt.code, tt.user)
		}
		if challenge := w.Header().Get("WWW-Authenticate"); (w.Code == 401) != strings.HasPrefix(challenge, "Basic realm=") {
			t.Errorf("%s: status %d with the challenge %q; want one with 401 only", name, w.Code, challenge)
		}
	}
}

func TestGuard_TrustedProxy(t *testing.T) {
	t.Parallel()
	cfg := access.Config{Proxy: access.Proxy{
		From: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, UserHeader: "X-User", GroupsHeader: "X-Groups",
		Operators: []string{"alice"}, OperatorGroups: []string{"oncall"},
	}}
	elsewhere := request("GET", "/", "X-User", "alice")
	elsewhere.RemoteAddr = "198.51.100.1:4711"
	mapped := request("GET", "/", "X-User", "bob")
	mapped.RemoteAddr = "[::ffff:192.0.2.9]:4711"
	for name, tt := range map[string]struct {
		r    *http.Request
		code int
		user access.User
	}{
		"an operator":          {request("POST", "/", "X-User", "alice"), 200, access.User{Name: "alice", Role: access.Operator}},
		"one of the operators": {request("POST", "/", "X-User", "carol", "X-Groups", "staff, oncall"), 200, access.User{Name: "carol", Role: access.Operator}},
		"a viewer":             {request("GET", "/", "X-User", "bob", "X-Groups", "staff"), 200, access.User{Name: "bob"}},
		"IPv4 in IPv6":         {mapped, 200, access.User{Name: "bob"}},
		"no name":              {request("GET", "/", "X-User", " "), 401, access.User{}},
		"two names":            {request("GET", "/", "X-User", "bob", "X-User", "alice"), 401, access.User{}},
		"two lists of groups":  {request("GET", "/", "X-User", "bob", "X-Groups", "oncall", "X-Groups", "staff"), 200, access.User{Name: "bob"}},
		"from elsewhere":       {elsewhere, 401, access.User{}},
	} {
		if w, user := ask(t, cfg, tt.r); w.Code != tt.code || user != tt.user {
			t.Errorf("%s: status %d for %+v; want %d for %+v", name, w.Code, user, tt.code, tt.user)
		}
	}
	if _, err := access.New(access.Config{Proxy: access.Proxy{From: cfg.Proxy.From}}); err == nil {
		t.Error("a proxy without the header of the user is accepted; want an error")
	}
}

func TestGuard_RequestsOfOtherSites(t *testing.T) {
	t.Parallel()
	external, err := url.Parse("https://ops.example.com/koo")
	if err != nil {
		t.Fatal(err)
	}
	cfg := access.Config{Users: openUsers(t, usersFile(t)), External: external}
	for name, tt := range map[string]struct {
		headers []string
		code    int
	}{
		"no browser":                     {nil, 200},
		"this site":                      {[]string{"Origin", "http://dash.example"}, 200},
		"this site, a new browser":       {[]string{"Origin", "http://dash.example", "Sec-Fetch-Site", "same-origin"}, 200},
		"the external URL":               {[]string{"Origin", "https://ops.example.com"}, 200},
		"the external URL, cross-site":   {[]string{"Origin", "https://ops.example.com", "Sec-Fetch-Site", "cross-site"}, 200},
		"another site":                   {[]string{"Origin", "https://evil.example"}, 403},
		"another site, a new browser":    {[]string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"}, 403},
		"a site below the same domain":   {[]string{"Origin", "http://blog.dash.example", "Sec-Fetch-Site", "same-site"}, 403},
		"another port":                   {[]string{"Origin", "http://dash.example:81"}, 403},
		"a page without origin":          {[]string{"Origin", "null"}, 403},
		"only a referer of another site": {[]string{"Referer", "https://evil.example/x"}, 403},
		"only a referer of this site":    {[]string{"Referer", "http://dash.example/queues"}, 200},
	} {
		for _, method := range []string{"POST", "DELETE", "PUT", "OPTIONS"} {
			r := login(request(method, "http://dash.example/queues/pause", tt.headers...), "alice", "secret-a")
			w, _ := ask(t, cfg, r)
			if method != "OPTIONS" && w.Code != tt.code { // that only asks what is allowed
				t.Errorf("%s, %s: status %d; want %d", name, method, w.Code, tt.code)
			}
			for header := range w.Header() {
				if strings.HasPrefix(header, "Access-Control-") {
					t.Errorf("%s, %s: the answer has %s; want no permission for other sites", name, method, header)
				}
			}
		}
	}
}

func TestGuard_Headers(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]*http.Request{"a page": request("GET", "http://localhost/"), "a refusal": request("GET", "http://evil.example/")} {
		w, _ := ask(t, access.Config{Local: "alice@host"}, r)
		for header, want := range map[string]string{
			"Content-Security-Policy": access.Policy, "X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff",
			"Referrer-Policy": "same-origin", "Cache-Control": "no-store", "Cross-Origin-Opener-Policy": "same-origin",
		} {
			if got := w.Header().Get(header); got != want {
				t.Errorf("%s: %s: %q; want %q", name, header, got, want)
			}
		}
		if w.Header().Get("Strict-Transport-Security") != "" {
			t.Errorf("%s: an answer without TLS asks for TLS", name)
		}
	}
}

// Without credentials whoever is on this machine is an operator, and a website that leads a name
// of its own to 127.0.0.1 is not on this machine.
func TestGuard_OpenOnLoopback(t *testing.T) {
	t.Parallel()
	cfg := access.Config{Local: "alice@host"}
	for host, code := range map[string]int{
		"127.0.0.1:8090": 200, "localhost:8090": 200, "[::1]:8090": 200, "127.0.0.1": 200,
		"rebind.evil.example:8090": 421, "localhost.evil.example": 421, "192.0.2.1:8090": 421,
	} {
		r := request("POST", "/queues/pause")
		r.Host = host
		w, user := ask(t, cfg, r)
		if w.Code != code || code == 200 && user != (access.User{Name: "alice@host", Role: access.Operator}) {
			t.Errorf("Host %s: status %d for %+v; want %d", host, w.Code, user, code)
		}
	}
}

func TestAccess_CheckAddr(t *testing.T) {
	t.Parallel()
	open, err := access.New(access.Config{Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	closed, err := access.New(access.Config{Logger: zap.NewNop(), Users: openUsers(t, usersFile(t))})
	if err != nil {
		t.Fatal(err)
	}
	for addr, isLoopback := range map[string]bool{
		"127.0.0.1:80": true, "localhost:80": true, "[::1]:80": true, "127.8.8.8:80": true, "[::ffff:127.0.0.1]:80": true,
		"0.0.0.0:80": false, ":80": false, "[::]:80": false, "192.0.2.1:80": false, "example.com:80": false, "127.0.0.1.example.com:80": false,
	} {
		if err := open.CheckAddr(addr); (err == nil) != isLoopback || err != nil && !strings.Contains(err.Error(), "--users-file") {
			t.Errorf("open, %s: %v; want an error that names --users-file: %t", addr, err, !isLoopback)
		}
		if err := closed.CheckAddr(addr); err != nil {
			t.Errorf("with users, %s: %v; want nil", addr, err)
		}
	}
}

func TestUsers_FileIsReadAgain(t *testing.T) {
	t.Parallel()
	path := usersFile(t)
	users := openUsers(t, path)
	check := func(name, password string, want bool) {
		t.Helper()
		if _, err := users.Check(t.Context(), name, password); (err == nil) != want {
			t.Errorf("%s: %v; want to pass: %t", name, err, want)
		}
	}
	check("alice", "secret-a", true)
	check("alice", "secret-a", true) // remembered
	write(t, path, line(t, "alice", "another", ":operator"))
	future := time.Now().Add(time.Minute)
	if err := os.Chtimes(path, future, future); err != nil {
		t.Fatal(err)
	}
	check("alice", "secret-a", false)
	check("alice", "another", true)
	check("bob", "secret-b", false)
	write(t, path, "nonsense\n")
	check("alice", "another", true) // those of before stay
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	check("alice", "another", true)
}

func TestUsers_BadFiles(t *testing.T) {
	t.Parallel()
	good := line(t, "alice", "secret-a", ":operator")
	for name, tt := range map[string]struct{ text, want string }{
		"empty":         {"# nobody\n", "it has no users"},
		"a password":    {"alice:secret-a\n", "line 1: the hash is none of bcrypt"},
		"only a name":   {"alice\n", "line 1: want name:hash"},
		"no name":       {strings.TrimPrefix(good, "alice"), "line 1: want name:hash"},
		"unknown role":  {strings.Replace(good, "operator", "admin", 1), "line 1: the role is unknown"},
		"the same name": {good + "\n" + good, "line 3: a second user"},
	} {
		path := filepath.Join(t.TempDir(), "users")
		write(t, path, tt.text)
		_, err := access.OpenUsers(path, zap.NewNop())
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v; want an error with %q, and without what the line says", name, err, tt.want)
		}
	}
	if _, err := access.OpenUsers(filepath.Join(t.TempDir(), "none"), zap.NewNop()); err == nil {
		t.Error("a file that does not exist is accepted; want an error")
	}
}

func TestHash_IsALineOfTheFile(t *testing.T) {
	t.Parallel()
	text, err := access.Hash("alice", "secret-a", access.Operator)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "users")
	write(t, path, text+"\n")
	user, err := openUsers(t, path).Check(t.Context(), "alice", "secret-a")
	if err != nil || user != (access.User{Name: "alice", Role: access.Operator}) {
		t.Errorf("%+v, %v; want the operator alice", user, err)
	}
	for _, bad := range []struct{ name, password string }{{"", "x"}, {"a:b", "x"}, {"#a", "x"}, {" a", "x"}, {"a", ""}, {"a", strings.Repeat("x", 73)}} {
		if _, err := access.Hash(bad.name, bad.password, access.Viewer); err == nil {
			t.Errorf("user %q with a password of %d bytes is accepted; want an error", bad.name, len(bad.password))
		}
	}
}
