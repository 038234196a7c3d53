package webhook

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kooworker/kooworker/tasks"
)

func TestKeyOf(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		secret, key, problem string // a part of the problem
	}{
		{"0123456789abcdef", "0123456789abcdef", ""},
		{"pass phrase über alles", "pass phrase über alles", ""},
		{"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", ""}, // base64 only where the prefix says so
		{"whsec_MDEyMzQ1Njc4OWFiY2RlZg==", "0123456789abcdef", ""},
		{"", "", "has 0 bytes; want at least 16"},
		{"0123456789abcde", "", "has 15 bytes; want at least 16"},
		{"whsec_MDEyMzQ1Njc4OWFiY2Rl", "", "has 15 bytes; want at least 16"},
		{"whsec_", "", "has 0 bytes; want at least 16"},
		{"whsec_MDEyMzQ1Njc4OWFiY2RlZg", "", "not base64; want standard base64, with its padding"},
		{"whsec_correct horse battery staple", "", "not base64"},
		{" 0123456789abcdef", "", "white space"},
		{"0123456789abcdef\u00a0", "", "white space"},
		{"0123456789abcdef\n", "", "not one line of text"},
		{"0123456789\n0123456789", "", "not one line of text"},
		{"0123456789abcde\xff", "", "not one line of text"},
	} {
		key, err := keyOf(tc.secret)
		if string(key) != tc.key || (err == nil) != (tc.problem == "") || err != nil && !strings.Contains(err.Error(), tc.problem) {
			t.Errorf("%q: got %q, %v; want %q, %s", tc.secret, key, err, tc.key, tc.problem)
		}
		_, err = StaticSecret(tc.secret)
		if (err == nil) != (tc.problem == "") || err != nil && len(tc.secret) > 6 && strings.Contains(err.Error(), tc.secret[6:]) {
			t.Errorf("StaticSecret(%q): got %v, want %s without the secret", tc.secret, err, tc.problem)
		}
	}
}

// replace replaces a file by a rename.
func replace(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func TestSecretFile_Rotated(t *testing.T) {
	t.Parallel()
	const first, second, third = "the first of three secrets", testSecret, "the third of them, which is in place"
	accepted := make(chan string, 1)
	srv := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		for _, secret := range []string{first, second, third} {
			if Verify(secret, r.Header, body, testNow(), Tolerance) == nil {
				accepted <- secret
				return
			}
		}
		accepted <- ""
	})
	path := filepath.Join(t.TempDir(), "secret")
	replace(t, path, first+"\n")
	source, err := SecretFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := connect(t, srv.URL, func(cfg *Config) { cfg.Secret = source })
	send := func(want string) {
		t.Helper()
		if a := s.Send(t.Context(), testID, []byte(testBody)); a.Reason != tasks.OK {
			t.Fatalf("got %+v, want ok", a)
		}
		if got := <-accepted; got != want {
			t.Errorf("signed with %q, want %q", got, want)
		}
	}
	refuse := func(message string) {
		t.Helper()
		a := s.Send(t.Context(), testID, []byte(testBody))
		if a.Reason != tasks.Unauthorized || a.Message != "the webhook's secret file "+path+" "+message || a.Hint != hintSecret {
			t.Errorf("got %+v, want unauthorized: %s", a, message)
		}
		if len(accepted) > 0 {
			t.Error("something was sent")
		}
	}
	send(first)
	replace(t, path, second+"\r\n")
	send(second)
	if err := os.WriteFile(path, []byte(third), 0o600); err != nil { // in place
		t.Fatal(err)
	}
	send(third)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	refuse("cannot be read: no such file or directory")
	replace(t, path, "")
	refuse("has 0 bytes; want at least 16, such as whsec_ and what `openssl rand -base64 24` prints")
	replace(t, path, first)
	send(first)
}

func TestSecretFile_Unusable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		replace(t, path, content)
		return path
	}
	for path, problem := range map[string]string{
		filepath.Join(dir, "none"):     "cannot be read: no such file or directory",
		dir:                            "is not a regular file",
		os.DevNull:                     "is not a regular file",
		write("short", "0123456789\n"): "has 10 bytes",
		write("two", "0123456789abcdef\n0123456789abcdef"):  "is not one line of text",
		write("long", strings.Repeat("x", maxSecretFile+1)): "is larger than 4096 bytes",
	} {
		if _, err := SecretFile(path); err == nil || !strings.HasPrefix(err.Error(), "the webhook's secret file "+path+" "+problem) {
			t.Errorf("%s: got %v, want %s", path, err, problem)
		}
	}
}

func TestSender_HiddenFromFmt(t *testing.T) {
	t.Parallel()
	const token = "tok3n-60f4ccc7b1"
	source, err := StaticSecret(testSecret)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{URL: "https://hooks.example.com/" + token + "?token=" + token, Secret: source}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	values := []any{source, cfg, &cfg, s, *s, struct{ S *Sender }{s}, struct{ s *Sender }{s}, struct{ s Sender }{*s}, []*Sender{s}}
	for _, v := range values {
		text := ""
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			text += fmt.Sprintf(verb, v)
		}
		if asJSON, err := json.Marshal(v); err == nil {
			text += string(asJSON)
		}
		for _, word := range []string{testSecret[6:], token, fmt.Sprintf("%x", token), fmt.Sprintf("%x", testSecret[6:])} {
			if strings.Contains(text, word) {
				t.Errorf("%T: got %s, want it without %s", v, text, word)
			}
		}
	}
	if got, want := fmt.Sprintf("%+v %#v %s %s", s, s, s.String(), s.GoString()), "webhook to https://hooks.example.com"; got != strings.Join([]string{want, want, want, want}, " ") {
		t.Errorf("got %s, want %s four times", got, want)
	}
}
