package koodrive

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kooworker/kooworker/internal/httpx"
	"github.com/kooworker/kooworker/tasks"
)

// The vendor publishes this vector for a similar scheme.
func TestCanonicalRequest_PublishedVector(t *testing.T) {
	t.Parallel()
	text, _ := canonicalRequest("GET", "/v1/77b6a44cba5143ab91d13ab9a8ff44fd/vpcs",
		"marker=13551d6b-755d-4757-b956-536f674975c0&limit=2", map[string]string{
			"x-sdk-date": "20191115T033655Z", "host": "service.region.example.com", "content-type": " application/json ",
		}, emptyBodyHash)
	hash := sha256Hex(text)
	if want := "b25362e603ee30f4f25e7858e8a7160fd36e803bb2dfe206278659d71a9bcd7a"; hash != want {
		t.Errorf("got hash %s, want %s of\n%s", hash, want, text)
	}
	got := hmacHex("MFyfvK41ba2giqM7Uio6PznpdUKGpownRZlmVmHc", "SDK-HMAC-SHA256\n20191115T033655Z\n"+hash)
	if want := "7be6668032f70418fcc22abc52071e57aff61b84a1d2381bb430d6870f4f6ebe"; got != want {
		t.Errorf("got signature %s, want %s", got, want)
	}
}

func TestCanonicalQuery(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"":                 "",
		"k":                "k=",
		"k=":               "k=",
		"b=2&a=1&a=0":      "a=0&a=1&b=2",
		"a-b=1&a=2":        "a=2&a-b=1",
		"q=a+b%20c&&z=%7e": "q=a%20b%20c&z=~",
		"q=a/b:*'()$&ü=1":  "%C3%BC=1&q=a%2Fb%3A%2A%27%28%29%24",
		"q=%zz":            "q=%25zz",
	} {
		if got := canonicalQuery(raw); got != want {
			t.Errorf("%q: got %q, want %q", raw, got, want)
		}
	}
}

// The test signs what the server received once more, with code of its own.
func TestAppAuthorizer_SignatureOfTheRequestSent(t *testing.T) {
	t.Parallel()
	const appID, appSecret = "app-7", "MFyfvK41ba2giqM7Uio6PznpdUKGpownRZlmVmHc"
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.EscapedPath()
		if !strings.HasSuffix(path, "/") {
			path += "/"
		}
		canonical := r.Method + "\n" + path + "\n\nhost:" + r.Host + "\nx-date:" + r.Header.Get("X-Date") +
			"\nx-user-id:" + r.Header.Get("X-User-Id") + "\n\nhost;x-date;x-user-id\n" + emptyBodyHash
		mac := hmac.New(sha256.New, []byte(appSecret))
		_, _ = fmt.Fprintf(mac, "HMAC-SHA256\n%x", sha256.Sum256([]byte(canonical)))
		want := fmt.Sprintf("HMAC-SHA256 AppId=%s,SignedHeaders=host;x-date;x-user-id,Signature=%x", appID, mac.Sum(nil))
		if got := r.Header.Get("Authorization"); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		say(200, `{"code":0,"data":[]}`)(w, r)
	})
	secret, err := StaticSecret(appSecret)
	if err != nil {
		t.Fatal(err)
	}
	auth, err := NewAppAuthorizer(appID, secret)
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, srv.URL+"/pre", func(cfg *Config) { cfg.Authorizer = auth })
	_, devices := c.Devices(t.Context(), testUser)
	for _, got := range []Answer{c.Unbind(t.Context(), testUser, "a b~"), c.Release(t.Context(), testUser, testLock), devices} {
		if got.Status != 200 {
			t.Error(got)
		}
	}
}

func TestAppAuthorizer_Host(t *testing.T) {
	t.Parallel()
	auth, err := NewAppAuthorizer("app", httpx.NewSecret("s"))
	if err != nil {
		t.Fatal(err)
	}
	sign := func(host string) string {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://a.example.com:81/x", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		if err := auth.Authorize(t.Context(), req, testUser); err != nil {
			t.Fatal(err)
		}
		return req.Header.Get("Authorization")
	}
	if sign("") != sign("a.example.com:81") || sign("") == sign("b.example.com") {
		t.Error("the host that was signed is not the one that is sent, want the same")
	}
}

func TestAppAuthorizer_SecretFileRotated(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "secret")
	write(t, path, "old-secret\n")
	var signatures []string
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		signatures = append(signatures, r.Header.Get("Authorization"))
		if len(signatures) == 1 { // the secret changes at the very moment of the refusal
			write(t, path, "new-secret\n")
			say(401, "no: "+r.Header.Get("Authorization"))(w, r)
			return
		}
		say(200, `{"code":0}`)(w, r)
	})
	source, err := SecretFile(path)
	if err != nil {
		t.Fatal(err)
	}
	auth, err := NewAppAuthorizer("app", source)
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, srv.URL, func(cfg *Config) { cfg.Authorizer = auth })
	if got := c.Release(t.Context(), testUser, testLock); got.Reason != tasks.OK {
		t.Fatal(got)
	}
	if secret, _ := source.Secret(); secret != "new-secret" || signatures[0] == signatures[1] {
		t.Errorf("the second try was signed with the old secret, want the new one")
	}
}

func TestNewAppAuthorizer_WrongArguments(t *testing.T) {
	t.Parallel()
	secret, err := StaticSecret("s")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"", "a,b", "a b", "a=b", "a\nb"} {
		if _, err := NewAppAuthorizer(id, secret); err == nil || !strings.Contains(err.Error(), "want") {
			t.Errorf("%q: got %v, want an error that says what is right", id, err)
		}
	}
	if _, err := NewAppAuthorizer("app", nil); err == nil {
		t.Error("without a secret: got no error, want one")
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Error(err)
	}
}
