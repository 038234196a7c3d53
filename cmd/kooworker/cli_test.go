package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

func TestRun_WrongUsageSaysWhatIsRight(t *testing.T) {
	t.Setenv("KOODRIVE_TOKEN", "s3cret-token")
	for _, tc := range []struct {
		args string
		want string // part of the error; alternatives are separated by |
	}{
		{"bogus", "unexpected argument bogus"},
		{"worker --nope", "unknown flag --nope"},
		{"worker", "want a URL such as https://"},
		{"worker --koodrive-url koodrive.example.com", "want https://host"},
		{"worker --koodrive-url http://koodrive.example.com", "want https"},
		{"worker --koodrive-url https://k.example/koodrive/ose/v1/backup", "want https://k.example"},
		{"worker --koodrive-url https://k.example --concurrency many", "--concurrency"},
		{"worker --koodrive-url https://k.example --concurrency 0", "want more"},
		{"worker --koodrive-url https://k.example --max-attempts 0", "--max-attempts: want more"},
		{"worker --koodrive-url https://k.example --max-wait 1s", "max wait is 1s; want at least 1m"},
		{"worker --koodrive-url https://k.example --attempts bored=1", "known reason"},
		{"worker --koodrive-url https://k.example --backoff-first 10ms", "at least 1s"},
		{"worker --koodrive-url https://k.example --backoff-jitter 1", "want 0 to less than 1"},
		{"worker --koodrive-url https://k.example --reason 1=ok", "--reason"},
		{"worker --koodrive-url https://k.example --token-format s3cret-token", "{token}"},
		{"worker --koodrive-url https://k.example --auth magic", `must be one of "token","app"`},
		{"worker --koodrive-url https://k.example --auth app", "KOODRIVE_APP_SECRET"},
		{"worker --koodrive-url https://k.example --redis-url http://x", "want redis://"},
		{"worker --koodrive-url https://k.example --log-level loud", "must be one of"},
		{"worker --koodrive-url https://k.example --admin-addr 127.0.0.1:99999", "want host:port"},
		{"enqueue", `expected one of "unbind", "release"`},
		{"enqueue unbind", "want --user-id and --device-id"},
		{"enqueue unbind --user-id u", "want --user-id and --device-id"},
		{"enqueue unbind --user-id u --device-id ..", "device_id"},
		{"enqueue unbind --user-id u --device-id d --in 5", `--in: "5" is not a duration; want for example 90s, 1h30m, 30d or 2w`},
		{"enqueue unbind --user-id u --device-id d --in=-5m", "negative"},
		{"enqueue unbind --user-id u --device-id d --format csv", "only with --file"},
		{"enqueue unbind --user-id u --file x", "leave out --user-id"},
		{"enqueue unbind --file /does/not/exist", "no such file"},
		{"enqueue release --user-id u --lock-id l --no-guard", "not guarded"},
		{"enqueue unbind --user-id u --device-id d --max-already-gone 0.5", "--max-already-gone: only with --wait"},
		{"enqueue unbind --user-id u --device-id d --wait --max-already-gone 1.5", "--max-already-gone: 1.5 is no share; want 0 to 1"},
		{"batch wait b --max-already-gone NaN", "--max-already-gone: NaN is no share; want 0 to 1"},
		{"batch wait b --max-already-gone=-0.1", "want 0 to 1"},
		{"dead replay", "want a filter"},
		{"dead replay --all --rate=-1", "negative"},
		{"dead list --reason bored", "want one of"},
		{"dead list --kind device:unbindx", "want one of [device:unbind lock:release user:offboard lock:sweep batch:webhook], or unknown"},
		{"dead list --limit=-1", "no negative"},
		{"dead discard --all", "want --yes"},
		{"demo --tasks 1", "want 60 to"},
		{"simulator --fault nonsense", "want one of"},
		{"simulator --quota nonsense", "such as bucket:200/s"},
		{"simulator --quota fixed:1/s,told", "want per-call, per-user or key=value"},
		{"simulator --addr nonsense", "--addr"},
		{"simulator --users=-1", "0 or more"},
	} {
		r := kooworker(t, "", strings.Fields(tc.args)...)
		said := false
		for want := range strings.SplitSeq(tc.want, "|") {
			said = said || strings.Contains(strings.ReplaceAll(r.stderr, `\"`, `"`), want) // services write JSON
		}
		if r.code != exitUsage || !said || r.stdout != "" {
			t.Errorf("%s: %+v; want exit 2 and %q", tc.args, r, tc.want)
		}
		if lines := strings.Count(strings.TrimSpace(withoutLog(r.stderr)), "\n") + 1; lines > 1 {
			t.Errorf("%s: %d lines; want one:\n%s", tc.args, lines, r.stderr)
		}
		if strings.Contains(r.stderr, "s3cret") {
			t.Errorf("%s: the error shows the token; want no 's3cret':\n%s", tc.args, r.stderr)
		}
	}
}

// withoutLog removes the lines of the log.
func withoutLog(stderr string) string {
	var out strings.Builder
	for line := range strings.Lines(stderr) {
		if !strings.HasPrefix(line, "{") {
			out.WriteString(line)
		}
	}
	return out.String()
}

func TestWorker_NoCredentialOrSeveral(t *testing.T) {
	for _, env := range []map[string]string{
		{},
		{"KOODRIVE_TOKEN": "a", "KOODRIVE_TOKEN_FILE": "/b"},
		{"KOODRIVE_TOKEN_FILE": "/does/not/exist/token"},
		{"KOODRIVE_TOKEN_URL": "http://broker.example.com"},
	} {
		t.Run("", func(t *testing.T) {
			for name, value := range env {
				t.Setenv(name, value)
			}
			if r := kooworker(t, "", "worker", "--koodrive-url", "https://k.example"); r.code != exitUsage || !strings.Contains(r.stderr, "KOODRIVE_TOKEN") {
				t.Errorf("%v: %+v; want exit 2 and 'KOODRIVE_TOKEN'", env, r)
			}
		})
	}
}

func TestHelp_ShowsFlagsAndVariables(t *testing.T) {
	t.Parallel()
	for args, want := range map[string][]string{
		"":                      {"demo", "worker", "enqueue unbind", "dead replay", "Exit codes"},
		"worker --help":         {"$REDIS_URL", "$KOODRIVE_URL", "$KOODRIVE_QUOTA_HEADERS", "KOODRIVE_TOKEN_FILE", "$KOOWORKER_CONCURRENCY", "--max-attempts", "(12)", "(15m)", "$KOOWORKER_MAX_WAIT", "(24h)"},
		"enqueue unbind --help": {"--device-id", "$KOOWORKER_DEVICE_ID", "--in", "--file"},
		"dead replay --help":    {"--dry-run", "--reason", "--older-than", "$KOOWORKER_ALL"},
	} {
		r := kooworker(t, "", strings.Fields(args)...)
		if r.code != exitDone {
			t.Errorf("%q: exit %d; want exit 0", args, r.code)
		}
		for _, word := range want {
			if !strings.Contains(r.stdout, word) {
				t.Errorf("%q has no %s; want it:\n%s", args, word, r.stdout)
			}
		}
	}
}

func TestRun_WithoutArgumentsPrintsHelp(t *testing.T) {
	t.Parallel()
	if r := kooworker(t, ""); r.code != exitDone || !strings.Contains(r.stdout, "Usage: kooworker") || r.stderr != "" {
		t.Errorf("%+v; want exit 0, 'Usage: kooworker' and nothing on stderr", r)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	if r := kooworker(t, "", "version"); r.code != exitDone || !strings.HasPrefix(r.stdout, "kooworker ") {
		t.Errorf("%+v; want exit 0 and 'kooworker'", r)
	}
	if object := kooworker(t, "", "version", "--json").object(t); object["version"] == "" || object["go"] == "" || object["commit"] == "" {
		t.Errorf("%v; want version, commit and go", object)
	}
}

// resume is printed when the enqueuing of a file stopped.
const resume = "run the same command again"

func TestEnqueueFile_UnreadableFileIsWrongUsage(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	folder := t.TempDir()
	openQuote := filepath.Join(folder, "quote.csv")
	if err := os.WriteFile(openQuote, []byte("\"user_id,device_id\nu,1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ file, stdin, want string }{
		{"-", "u,1\nu,2\n", "header with user_id and device_id"},
		{"-", "", "header with user_id and device_id"},
		{openQuote, "", "read the header: line 1"},
		{folder, "", "is a directory"},
		{filepath.Join(folder, "none"), "", "no such file"},
	} {
		for _, more := range []string{"--json", "--no-guard"} {
			r := kooworker(t, tc.stdin, "enqueue", "unbind", "--file", tc.file, "--redis-url", server.URL(), more)
			if r.code != exitUsage || r.stdout != "" || !strings.HasPrefix(r.stderr, "kooworker: --file: ") || !strings.Contains(r.stderr, tc.want) {
				t.Errorf("%s: %+v; want exit 2 and %q", tc.file, r, tc.want)
			}
			if strings.Contains(r.stderr, resume) || strings.Contains(r.stderr, "hint") {
				t.Errorf("%s: %s; want neither a hint nor how to resume", tc.file, r.stderr)
			}
		}
	}
}

func TestEnqueueFile_WithoutRedisSaysHowToResume(t *testing.T) {
	t.Parallel()
	r := kooworker(t, "user_id,device_id\nu,1\nu,2\n", "enqueue", "unbind", "--file", "-", "--redis-url", "redis://127.0.0.1:1")
	for _, want := range []string{"stopped after ", resume, "refused", "hint: check --redis-url"} {
		if r.code != exitFailed || !strings.Contains(r.stderr, want) {
			t.Errorf("%+v; want exit 1 and %q", r, want)
		}
	}
	if strings.Contains(r.stderr, "UNKNOWN") {
		t.Errorf("%s; want none of asynq's codes", r.stderr)
	}
}

func TestEnqueueFile_InterruptSaysHowToResume(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	inspector := asynq.NewInspectorFromRedisClient(server.Client())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stdin, lines := io.Pipe()
	t.Cleanup(func() { _ = lines.Close() }) // ends the abandoned read
	var stdout, stderr redistest.Buffer
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"enqueue", "unbind", "--file", "-", "--json", "--redis-url", server.URL()}, stdin, &stdout, &stderr)
	}()
	if _, err := io.WriteString(lines, "user_id,device_id\nu,1\nu,2\nu\n"); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, 10*time.Second, "two tasks", func() bool {
		return infoOf(t, inspector, tasks.QueueUnbind).Pending == 2
	})
	cancel() // while the command waits for another line
	select {
	case got := <-code:
		if got != exitFailed || !strings.Contains(stderr.String(), "interrupted after 3 lines") || !strings.Contains(stderr.String(), resume) || strings.Contains(stderr.String(), "hint") {
			t.Errorf("exit %d: %s; want exit 1, 'interrupted after 3 lines', how to resume and no hint", got, stderr.String())
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the command runs 10s after the interrupt; want it to end")
	}
	var sum bulkSummary
	if err := json.Unmarshal([]byte(stdout.String()), &sum); err != nil || sum.Total != 3 || sum.Enqueued != 2 || sum.Rejected != 1 {
		t.Errorf("%s: %+v, %v; want 3 lines, 2 enqueued and 1 rejected", stdout.String(), sum, err)
	}
}

func TestReport_RemovesAsynqCodes(t *testing.T) {
	t.Parallel()
	cause := errors.New("dial tcp 127.0.0.1:1: connect: connection refused")
	for in, want := range map[error]string{
		fmt.Errorf("UNKNOWN: redis command error: SADD failed: %w", cause):                         "redis command error: SADD failed: " + cause.Error(),
		redisError(fmt.Errorf("enqueue device:unbind:u:d: UNKNOWN: INTERNAL_ERROR: %w", cause)):    "enqueue device:unbind:u:d: " + cause.Error(),
		fmt.Errorf("context deadline exceeded (INTERNAL_ERROR: %w)", cause):                        "context deadline exceeded (" + cause.Error() + ")",
		usagef("--id: %q is of no kind; want one without UNKNOWN: in it", "it-is-UNKNOWN: really"): `--id: "it-is-UNKNOWN: really" is of no kind; want one without UNKNOWN: in it`,
	} {
		var stderr strings.Builder
		report(&stderr, in)
		if first, _, _ := strings.Cut(stderr.String(), "\n"); first != "kooworker: "+want {
			t.Errorf("%q; want %q", first, want)
		}
	}
}

func TestRun_ShowsNoRedisPassword(t *testing.T) {
	for _, env := range []map[string]string{
		{"REDIS_URL": "redis://:12/s3cret@host:6379/0"},
		{"REDIS_URL": "redis://h/s3cret@x"},
		{"REDIS_URL": "redis-sentinel://:s3:cret:x,h?master=m"},
		{"REDIS_CLUSTER_NODES": "redis://:s3cret@host"},
	} {
		t.Run("", func(t *testing.T) {
			for name, value := range env {
				t.Setenv(name, value)
			}
			r := kooworker(t, "", "dead", "stats")
			if r.code != exitUsage || strings.Contains(r.stderr, "s3") || strings.Contains(r.stderr, "cret") {
				t.Errorf("%v: %+v; want exit 2, without the password", env, r)
			}
		})
	}
}
