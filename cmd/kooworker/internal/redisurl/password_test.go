package redisurl_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kooworker/kooworker/cmd/kooworker/internal/redisurl"
	"github.com/kooworker/kooworker/internal/redistest"
)

func passwordFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestAddress_PasswordFile changes the password of a running Redis. A client that
// connects afterwards uses what the file holds then.
func TestAddress_PasswordFile(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	admin := server.Client()
	path := passwordFile(t, "first\n")
	if err := admin.Do(t.Context(), "ACL", "SETUSER", "someone", "on", ">first", "+ping").Err(); err != nil {
		t.Fatal(err)
	}
	address := redisurl.Address{URL: "redis://someone@" + server.Addr(), PasswordFile: path}
	ping := func() error {
		client, err := address.Client(1)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = client.Close() }()
		return client.Ping(t.Context()).Err()
	}
	if err := ping(); err != nil {
		t.Errorf("%v; want the password of the file to be accepted", err)
	}
	if err := admin.Do(t.Context(), "ACL", "SETUSER", "someone", "resetpass", ">second").Err(); err != nil {
		t.Fatal(err)
	}
	if err := ping(); err == nil || strings.Contains(err.Error(), "first") {
		t.Errorf("%v; want the old password to be refused, and an error without it", err)
	}
	if err := os.WriteFile(path, []byte("second\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ping(); err != nil {
		t.Errorf("%v; want the new password of the file to be accepted", err)
	}
}

func TestAddress_PasswordFileRefused(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ url, path, want string }{
		"missing":   {"redis://u@h", filepath.Join(t.TempDir(), "none"), "no such file"},
		"empty":     {"redis://u@h", passwordFile(t, " \n"), "is empty"},
		"too large": {"redis://u@h", passwordFile(t, strings.Repeat("secret", 1000)), "is larger than"},
		"twice":     {"redis://u:secret@h", passwordFile(t, "secret"), "want one of them"},
		"sentinel":  {"redis-sentinel://u:secret@h?master=m", passwordFile(t, "secret"), "want one of them"},
	} {
		_, err := redisurl.Address{URL: tt.url, PasswordFile: tt.path}.Client(1)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v; want %q, and no secret", name, err, tt.want)
		}
	}
}
