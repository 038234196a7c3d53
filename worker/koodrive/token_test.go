package koodrive

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

func TestTokenAuthorizer_Formats(t *testing.T) {
	t.Parallel()
	source, err := StaticToken("tok")
	if err != nil {
		t.Fatal(err)
	}
	for format, want := range map[string]string{
		"": "Bearer+tok", "Bearer {token}": "Bearer tok", "AT {token}": "AT tok", "{token}": "tok", "<{token}>": "<tok>",
	} {
		auth, err := NewTokenAuthorizer(format, source)
		if err != nil {
			t.Errorf("%q: got %v, want no error", format, err)
			continue
		}
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost", http.NoBody)
		if err := auth.Authorize(t.Context(), req, testUser); err != nil || req.Header.Get("Authorization") != want {
			t.Errorf("%q: got %q, %v; want %q", format, req.Header.Get("Authorization"), err, want)
		}
		if got := auth.credentialIn(want); got != "tok" {
			t.Errorf("%q: the secret in %q is %q", format, want, got)
		}
	}
	for _, format := range []string{"Bearer hush", "{token}{token}", "a\n{token}", "{token} ", "é{token}"} {
		if _, err := NewTokenAuthorizer(format, source); err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%q: got %v, want an error without the format", format, err)
		}
	}
	if _, err := NewTokenAuthorizer("", nil); err == nil {
		t.Error("without a source: got no error, want one")
	}
}

func TestStaticToken_NotPrintable(t *testing.T) {
	t.Parallel()
	for _, token := range []string{"", "hush\r\nX-Evil: 1", "hush\x00", "hüsh"} {
		if _, err := StaticToken(token); err == nil || strings.Contains(err.Error(), "sh\x00") || strings.Contains(err.Error(), "hush") {
			t.Errorf("%q: got %v, want an error without the token", token, err)
		}
		if _, err := StaticSecret(token); err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%q as secret: got %v, want an error without the secret", token, err)
		}
	}
}

func TestTokenFile_Changes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "token")
	stamp := time.Now().Add(-time.Hour)
	put := func(path, content string, at time.Time) {
		write(t, path, content)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	put(path, "\n one \r\n", stamp)
	source, err := TokenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(why, want string) {
		t.Helper()
		if got, err := source.Token(t.Context(), testUser); err != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", why, got, err, want)
		}
	}
	check("at first", "one")
	put(path, "\n two \r\n", stamp)
	check("same time, size and identity: from the cache", "one")
	source.Forget(testUser)
	check("after a refusal", "two")
	put(path, "three", stamp)
	check("another size", "three")
	put(path, "other", stamp.Add(time.Second))
	check("another time", "other")
	put(filepath.Join(dir, "next"), "moved", stamp.Add(time.Second))
	if err := os.Rename(filepath.Join(dir, "next"), path); err != nil {
		t.Fatal(err)
	}
	check("another file under the name", "moved")
	if got := source.Redact("a moved token"); got != "a [redacted] token" {
		t.Errorf("Redact: got %q, want the token of now replaced", got)
	}
}

func TestTokenFile_Unusable(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "token")
	if _, err := TokenFile(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("absent at the start: got %v, want an error with the path", err)
	}
	write(t, path, "good")
	source, err := TokenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	auth, err := NewTokenAuthorizer("", source)
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) { calls++; say(200, `{"code":0}`)(w, r) })
	c := connect(t, srv.URL, func(cfg *Config) { cfg.Authorizer = auth })
	for says, content := range map[string]string{
		"is empty":       " \n",
		"control":        "hush\x01hush",
		"larger than":    strings.Repeat("hush", maxSecretFile/2),
		"cannot be read": "",
	} {
		write(t, path, content)
		if content == "" {
			_ = os.Remove(path)
		}
		got := c.Release(t.Context(), testUser, testLock)
		if got.Reason != tasks.Unauthorized || got.Status != 0 || !strings.Contains(got.Message, says) || strings.Contains(got.Message, "hush") {
			t.Errorf("got %v, want unauthorized with %q and without the token", got, says)
		}
		write(t, path, "good again")
		if got := c.Release(t.Context(), testUser, testLock); got.Reason != tasks.OK {
			t.Errorf("repaired after %q: got %v, want ok", says, got)
		}
	}
	if calls != 4 {
		t.Errorf("the server was called %d times, want 4: once after each repair", calls)
	}
}
