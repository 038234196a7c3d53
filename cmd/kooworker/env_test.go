package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// Compose files and charts set a variable to nothing where nothing is wanted.
func TestRun_EmptyVariableIsNotSet(t *testing.T) {
	parser, err := kong.New(new(cli), kong.DefaultEnvars("KOOWORKER"), kong.PostBuild(fillDefaults), durations(), instants())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	_ = kong.Visit(parser.Model, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok {
			for _, name := range flag.Envs {
				t.Setenv(name, "")
				n++
			}
		}
		return next(nil)
	})
	if n < 50 {
		t.Fatalf("%d variables; want all flags' ones", n)
	}
	t.Setenv("KOODRIVE_TOKEN", "t")
	for args, want := range map[string]string{
		"worker --koodrive-url https://k.example --admin-addr nowhere": "--admin-addr",
		"worker":               "--koodrive-url (KOODRIVE_URL) is missing",
		"scheduler":            "want --sweep-every or --sweep-cron",
		"enqueue unbind":       "want --user-id and --device-id",
		"dead replay":          "want a filter",
		"simulator --users=-1": "want 0 or more",
		"demo --tasks=-1":      "tasks",
		"version":              "",
	} {
		r := kooworker(t, "", strings.Fields(args)...)
		if wantCode := map[bool]int{true: exitDone, false: exitUsage}[want == ""]; r.code != wantCode || !strings.Contains(r.stderr, want) {
			t.Errorf("%s: %+v; want exit %d and %q", args, r, wantCode, want)
		}
	}
}

// docker --env-file, and systemd with a file of Windows, keep what a shell takes off.
func TestRun_QuotesAroundAVariable(t *testing.T) {
	for _, name := range []string{"KOODRIVE_RATE", "KOODRIVE_URL", "REDIS_URL", "KOODRIVE_TOKEN", "KOODRIVE_APP_ID", "KOODRIVE_APP_SECRET", "KOOWORKER_WEBHOOK_SECRET"} {
		for value, want := range map[string]string{`"1234567890abcdefgh"`: "quotes", `'1234567890abcdefgh'`: "quotes", "1234567890abcdefgh\r": "carriage return"} {
			t.Run(name+want, func(t *testing.T) {
				auth := "token"
				if strings.HasPrefix(name, "KOODRIVE_APP") {
					auth = "app"
				}
				for ours, value := range map[string]string{"KOODRIVE_APP_ID": "a", "KOODRIVE_APP_SECRET": "s", "KOODRIVE_TOKEN": "t", "KOODRIVE_URL": "https://k.example"} {
					t.Setenv(ours, value)
				}
				t.Setenv(name, value)
				r := kooworker(t, "", "worker", "--auth", auth, "--webhook-url", "https://w.example")
				if r.code != exitUsage || !strings.Contains(r.stderr, name+": ") || !strings.Contains(r.stderr, want) || strings.Contains(r.stderr, "1234567890") {
					t.Errorf("%+v; want exit 2 with %s and %q, without the value", r, name, want)
				}
				if r := kooworker(t, "", "worker", "--help"); r.code != exitDone {
					t.Errorf("--help: %+v; want exit 0", r)
				}
			})
		}
	}
}

func TestRun_TokenFileThatHoldsMore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	t.Setenv("KOODRIVE_TOKEN_FILE", path)
	for content, want := range map[string]string{
		"{\n  \"token\": \"s3cret\"\n}\n": "is JSON", `"s3cret"`: "is JSON", `["s3cret"]`: "is JSON",
		"Bearer s3cret\n": "--token-format", "bearer s3cret": "--token-format", "Bearer+s3cret": "--token-format",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		r := kooworker(t, "", "worker", "--koodrive-url", "https://k.example", "--redis-url", "redis://127.0.0.1:1", "--startup-timeout", "1s")
		if r.code != exitUsage || !strings.Contains(r.stderr, "the token file "+path) || !strings.Contains(r.stderr, want) || strings.Contains(r.stderr, "s3cret") {
			t.Errorf("%q: %+v; want exit 2 with %q, without the secret", content, r, want)
		}
	}
}
