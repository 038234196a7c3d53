package main

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/creack/pty"

	"github.com/kooworker/kooworker/internal/redistest"
)

// What collects the log of a service must be able to read why the service did not start.
func TestReport_FatalErrorOfAService(t *testing.T) {
	for _, args := range []string{
		"worker --koodrive-url https://k.example --redis-url redis://127.0.0.1:1 --startup-timeout 1s",
		"worker", "worker --no-such-flag", "worker --concurrency many", "scheduler", "simulator --addr nowhere",
	} {
		t.Run(args, func(t *testing.T) {
			t.Setenv("KOODRIVE_TOKEN", "t")
			for _, format := range []string{"", "json"} {
				t.Setenv("KOOWORKER_LOG_FORMAT", format)
				r := kooworker(t, "", strings.Fields(args)...)
				lines := strings.Split(strings.TrimSpace(r.stderr), "\n")
				var last struct{ Level, Msg, Hint string }
				if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last.Level != "fatal" || last.Msg == "" || r.code == exitDone {
					t.Errorf("%+v; want a last line in JSON, of level fatal", r)
				}
				if strings.Contains(args, "127.0.0.1:1") && !strings.Contains(last.Hint, "redis-cli PING") {
					t.Errorf("hint %q; want one about Redis", last.Hint)
				}
			}
			t.Setenv("KOOWORKER_LOG_FORMAT", "")
			r := kooworker(t, "", append(strings.Fields(args), "--log-format=console")...)
			if !strings.Contains(r.stderr, "\tFATAL\t") {
				t.Errorf("%+v; want a line for people", r)
			}
			t.Setenv("KOOWORKER_LOG_FORMAT", "console")
			if r := kooworker(t, "", strings.Fields(args)...); !strings.Contains(r.stderr, "\tFATAL\t") || strings.Contains(r.stderr, "\x1b") {
				t.Errorf("%+v; want a line for people, without colors", r)
			}
		})
	}
	if r := kooworker(t, "", "queue", "list", "--redis-url", "redis://127.0.0.1:1", "--log-format", "json"); !strings.HasPrefix(r.stderr, "kooworker: ") || !strings.Contains(r.stderr, "\nhint: ") {
		t.Errorf("%+v; want two lines of text from a command that is no service", r)
	}
}

func TestUnknownVariables(t *testing.T) {
	t.Parallel()
	known := variablesOf(commandLine(t))
	for name, want := range map[string]string{
		"KOOWORKER_CONCURENCY":              "KOOWORKER_CONCURENCY is not a variable of kooworker; did you mean KOOWORKER_CONCURRENCY?",
		"KOODRIVE_CONCURRENCY":              "KOODRIVE_CONCURRENCY is not a variable of kooworker; did you mean KOOWORKER_CONCURRENCY?",
		"KOODRIVE_TOKENFILE":                "KOODRIVE_TOKENFILE is not a variable of kooworker; did you mean KOODRIVE_TOKEN_FILE?",
		"KOOWORKER_URL":                     "KOOWORKER_URL is not a variable of kooworker; did you mean KOODRIVE_URL?",
		"KOOWORKER_SOMETHING_ELSE_ENTIRELY": "KOOWORKER_SOMETHING_ELSE_ENTIRELY is not a variable of kooworker; the help of each command lists its variables",
		"KOOWORKER_LOG_LEVEL":               "",
		"KOODRIVE_APP_SECRET_FILE":          "",
		"KOOWORKER_SERVICE_HOST":            "", // Kubernetes sets these for a service kooworker
		"KOOWORKER_API_SERVICE_PORT_HTTP":   "",
		"KOOWORKER_PORT":                    "",
		"KOOWORKER_PORT_80_TCP_ADDR":        "",
		"REDIS_PASSWORD":                    "",
	} {
		got := strings.Join(unknownVariables([]string{"HOME=/", name + "=s3cret"}, known), "\n")
		if got != want {
			t.Errorf("%s: %q; want %q", name, got, want)
		}
	}
}

// Every variable that the code reads is known, so that nobody is warned of it.
func TestUnknownVariables_CodeAndDocumentation(t *testing.T) {
	t.Parallel()
	known := variablesOf(commandLine(t))
	for _, file := range []string{"*.go", "../../README.md", "../../deploy/*"} {
		for _, name := range namesIn(t, file) {
			if !slices.Contains(known, name) && !serviceLink.MatchString(name) {
				t.Errorf("%s names %s, which is not known; is it missing in withoutFlag?", file, name)
			}
		}
	}
}

func commandLine(t *testing.T) *kong.Application {
	t.Helper()
	parser, err := newParser(new(cli), io.Discard, io.Discard, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	return parser.Model
}

func TestRun_WarnsOfUnknownVariable(t *testing.T) {
	t.Setenv("KOOWORKER_CONCURENCY", "3")
	const want = "KOOWORKER_CONCURENCY is not a variable of kooworker; did you mean KOOWORKER_CONCURRENCY?"
	if r := kooworker(t, "", "queue", "list", "--redis-url", redistest.Start(t).URL()); r.code != exitDone || r.stderr != "warning: "+want+"\n" {
		t.Errorf("%+v; want exit 0 and one warning", r)
	}
	if r := kooworker(t, "", "simulator", "--users=-1"); !strings.HasPrefix(r.stderr, `{"level":"warn"`) || strings.Count(r.stderr, want) != 1 {
		t.Errorf("%+v; want a line of the log", r)
	}
	if r := kooworker(t, "", "completion", "bash"); r.stderr != "" {
		t.Errorf("%+v; want no warning in each new shell", r)
	}
}

// service is a command that runs until it is told to stop, with what it takes.
func services(t *testing.T) map[string][]string {
	t.Helper()
	redis := redistest.Start(t).URL()
	return map[string][]string{
		"worker":    {"worker", "--redis-url", redis, "--koodrive-url", "http://127.0.0.1:1", "--log-level", "debug"},
		"scheduler": {"scheduler", "--redis-url", redis, "--sweep-every", "1s", "--log-level", "debug"},
		"simulator": {"simulator", "--addr", "127.0.0.1:0", "--log-level", "debug"},
	}
}

// Somebody looks at the first line: kooworker worker 2>&1 | head -1.
func TestService_WorksOnWithoutItsReader(t *testing.T) {
	t.Parallel()
	for name, args := range services(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reader, output, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(os.Args[0], args...)
			cmd.Env = append(os.Environ(), asKooworker+"=1", "KOODRIVE_TOKEN=t0ken", "KOOWORKER_CONCURENCY=1") // a line at once
			cmd.Stdout, cmd.Stderr = output, output
			testServiceWithout(t, cmd, func() {
				_ = output.Close()
				if _, err := reader.Read(make([]byte, 1)); err != nil {
					t.Error(err)
				}
				_ = reader.Close()
			})
		})
	}
}

// testServiceWithout starts a service, takes its output away, and lets it work for a while. It
// must live then, and stop in order.
func testServiceWithout(t *testing.T, cmd *exec.Cmd, takeAway func()) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	takeAway()
	letTimePass(4 * time.Second) // it writes more lines
	if code := p.end(t, syscall.SIGTERM); code != exitDone {
		t.Errorf("exit %d, %v; want exit 0 after SIGTERM", code, cmd.ProcessState)
	}
}

// A supervisor starts it without any stream.
func TestService_WorksWithoutStreams(t *testing.T) {
	t.Parallel()
	for name, args := range services(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var words []string
			for _, arg := range args {
				words = append(words, strconv.Quote(arg))
			}
			cmd := exec.Command("sh", "-c", "exec "+strconv.Quote(os.Args[0])+" "+strings.Join(words, " ")+" <&- >&- 2>&-")
			cmd.Env = append(os.Environ(), asKooworker+"=1", "KOODRIVE_TOKEN=t0ken")
			testServiceWithout(t, cmd, func() {})
		})
	}
}

func TestLogging_Colors(t *testing.T) {
	t.Parallel()
	for env, want := range map[string]bool{"TERM=xterm": true, "NO_COLOR=1": false, "NO_COLOR=": true, "TERM=dumb": false} {
		cmd := exec.Command(os.Args[0], "simulator", "--addr", "nowhere")
		cmd.Env = append(os.Environ(), asKooworker+"=1", "TERM=xterm", env)
		terminal, err := pty.Start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		output, _ := io.ReadAll(terminal) // ends with an error when the process has ended
		_ = cmd.Wait()
		_ = terminal.Close()
		if !strings.Contains(string(output), "FATAL") || strings.Contains(string(output), "\x1b[") != want {
			t.Errorf("%s: %q; want a fatal line, with colors: %t", env, output, want)
		}
	}
}

// namesIn returns the variables that files name in full.
func namesIn(t *testing.T, pattern string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v; want files", pattern, err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		content, err := os.ReadFile(file)
		if err != nil {
			continue // a folder
		}
		names = append(names, regexp.MustCompile(`\b(?:KOOWORKER|KOODRIVE)_[A-Z0-9_]*[A-Z0-9]\b`).FindAllString(string(content), -1)...)
	}
	if len(names) == 0 {
		t.Errorf("%s name no variable; want some", pattern)
	}
	return names
}
