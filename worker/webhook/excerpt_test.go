package webhook

import (
	"encoding/base64"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

func TestSafeExcerpt(t *testing.T) {
	t.Parallel()
	u, err := url.Parse("https://hooks.example.com/api/T0KENINPATH/x?key=s3%2FcretValue&v=q7&longtokenname&;")
	if err != nil {
		t.Fatal(err)
	}
	secrets := secretFragments(u, "correct horse battery staple", "v1,Xo4dvwcdg8oi7iDzB0suZsLhO88Oc9An+4JifsaNOgc=")
	for text, quoted := range map[string]bool{
		"":                                 true,
		" over capacity, come back \n":     true,
		`{"error":"key v is not known"}`:   true, // the short names of a query are no secrets
		"Größe überschritten":              true,
		"two\nlines":                       false,
		"a\ttab":                           false,
		"a\u202ebidi":                      false,
		"broken \xff":                      false,
		"100%":                             false,
		"a &amp; b":                        false,
		`\u0073`:                           false,
		"correct horse battery staple":     false,
		"CORRECT-HORSE-BATTERY-STAPLE":     false,
		"… horse batt …":                   false,
		"c o r r e c t h o r s e":          false,
		"horse":                            true, // fewer than eight characters are no piece
		"bad s3/cretValue":                 false,
		"bad S3_CRETVALUE":                 false,
		"v is Q7":                          false,
		"/api/t0keninpath/x not found":     false,
		"/api/ not found":                  true,
		"longtokenname":                    false,
		"got v1,Xo4dvwcdg8oi7iDzB0suZsLhO": false,
	} {
		want := ""
		if quoted {
			want = strings.TrimSpace(text)
		}
		if got := safeExcerpt(text, secrets); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// The webhook fails in every possible way. The receivers send back what they were
// sent.
func TestSend_EchoedSecrets(t *testing.T) {
	t.Parallel()
	const (
		secret  = "s3cret+60f4ccc7b1/3dd9a68068"
		inQuery = "qu3ry+token/0a1b2c"
		inPath  = "p4th-token-9f8e7d"
	)
	address := "/" + inPath + "?key=" + url.QueryEscape(inQuery)
	path := filepath.Join(t.TempDir(), "secret")
	replace(t, path, secret)
	source, err := SecretFile(path)
	if err != nil {
		t.Fatal(err)
	}
	signatures := make(chan string, 1000)
	check := func(name string, a Answer, reason tasks.Reason) {
		t.Helper()
		if a.Reason != reason {
			t.Errorf("%s: got %+v, want the reason %s", name, a, reason)
		}
		text := fmt.Sprintf("%+v %#v", a, a)
		secrets := []string{secret, inQuery, url.QueryEscape(inQuery), inPath, "60f4ccc7b1", "0a1b2c", "9f8e7d"}
		for len(signatures) > 0 {
			secrets = append(secrets, strings.TrimPrefix(<-signatures, "v1,"))
		}
		for _, s := range secrets {
			if strings.Contains(strings.ToLower(text), strings.ToLower(s)) {
				t.Errorf("%s: got %s, want it without %s", name, text, s)
			}
		}
	}
	change := func(cfg *Config) { cfg.Secret, cfg.Timeout = source, time.Hour }

	for form, disguise := range map[string]func(string) string{
		"plain":  func(s string) string { return s },
		"upper":  strings.ToUpper,
		"spaced": func(s string) string { return strings.Join(strings.Split(s, ""), " ") },
		"in URL": url.QueryEscape,
		"HTML":   html.EscapeString,
		"JSON":   func(s string) string { return strings.NewReplacer("/", `\/`, "+", `\u002b`).Replace(s) },
		"pieces": func(s string) string { return s[len(s)/4 : len(s)-len(s)/4] },
	} {
		for status, reason := range map[int]tasks.Reason{
			302: tasks.Upstream, 400: tasks.Rejected, 401: tasks.Rejected, 404: tasks.Rejected, 410: tasks.Rejected,
			429: tasks.Upstream, 500: tasks.Upstream, 600: tasks.Protocol,
		} {
			for part, of := range map[string]func(r *http.Request) string{
				"secret":    func(*http.Request) string { return secret },
				"query":     func(*http.Request) string { return inQuery },
				"raw query": func(r *http.Request) string { return r.URL.RawQuery },
				"URL":       func(r *http.Request) string { return r.RequestURI },
				"signature": func(r *http.Request) string { return r.Header.Get(headerSignature) },
			} {
				srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
					signatures <- r.Header.Get(headerSignature)
					echo := disguise(of(r))
					w.Header().Set("Location", "https://"+url.PathEscape(echo)+".example.com/"+url.QueryEscape(echo))
					w.WriteHeader(status)
					_, _ = io.WriteString(w, "bad "+echo)
				})
				a := connect(t, srv.URL+address, change).Send(t.Context(), testID, []byte(testBody))
				name := fmt.Sprint(form, " ", status, " ", part)
				check(name, a, reason)
				if a.Message != fmt.Sprint("HTTP ", status) {
					t.Errorf("%s: got %q, want nothing but the status", name, a.Message)
				}
			}
		}
	}

	closed := serve(t, nil)
	closed.Close()
	tlsServer, _ := serveTLS(t, 0, say(200, ""))
	for name, server := range map[string]string{
		"refused":     closed.URL,
		"certificate": tlsServer.URL,
		"no TLS":      strings.Replace(serve(t, say(200, "")).URL, "http:", "https:", 1),
		"status line": raw(t, "HTTP/1.1 "+secret+" "+inQuery+"\n\n", false).URL,
		"header":      raw(t, "HTTP/1.1 200 OK\n"+secret+" "+inQuery+"\n\n", false).URL,
		"not HTTP":    raw(t, secret+" "+inPath+" "+inQuery+"\n\n", false).URL,
		"hung up":     raw(t, "", false).URL,
	} {
		check(name, connect(t, server+address, change).Send(t.Context(), testID, []byte(testBody)), tasks.Network)
	}

	slow := serve(t, hang(make(chan struct{}, 1)))
	s := connect(t, slow.URL+address, func(cfg *Config) { cfg.Secret, cfg.Timeout = source, 50*time.Millisecond })
	check("slow", s.Send(t.Context(), testID, []byte(testBody)), tasks.TimedOut)
	check("id", s.Send(t.Context(), "{", []byte(testBody)), tasks.Invalid)
	if err := os.WriteFile(path, []byte(secret+"\n"+secret), 0o600); err != nil {
		t.Fatal(err)
	}
	check("secret", s.Send(t.Context(), testID, []byte(testBody)), tasks.Unauthorized)
}

// The text of a secret is secret, and so is the key that is encoded in it.
func TestSend_EchoedSecretOrKey(t *testing.T) {
	t.Parallel()
	const key = "correct horse battery staple"
	encoded := base64.StdEncoding.EncodeToString([]byte(key))
	source, err := StaticSecret("whsec_" + encoded)
	if err != nil {
		t.Fatal(err)
	}
	for _, echo := range []string{"whsec_" + encoded, encoded, key} {
		s := connect(t, serve(t, say(500, "not with "+echo)).URL, func(cfg *Config) { cfg.Secret = source })
		if a := s.Send(t.Context(), testID, []byte(testBody)); a.Message != "HTTP 500" {
			t.Errorf("%s: got %+v, want nothing but the status", echo, a)
		}
	}
}
