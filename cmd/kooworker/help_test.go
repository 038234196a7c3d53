package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestVersion_Flag(t *testing.T) {
	want := kooworker(t, "", "version")
	t.Setenv("KOOWORKER_VERSION", "v1.2.3") // as a chart may name the image's version
	for _, args := range [][]string{{"--version"}, {"batch", "show", "--version"}} {
		if r := kooworker(t, "", args...); r != want {
			t.Errorf("%q: %+v; want the same as version, %+v", args, r, want)
		}
	}
}

func TestHelp_OfACommand(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"", "batch", "batch show", "worker", "help"} {
		want := kooworker(t, "", append(strings.Fields(command), "--help")...)
		if got := kooworker(t, "", append([]string{"help"}, strings.Fields(command)...)...); got != want || got.code != exitDone {
			t.Errorf("help %s (-want +got):\n%s; want the same as --help", command, cmp.Diff(want.stdout, got.stdout)+got.stderr)
		}
	}
}

func TestHelp_UnknownCommand(t *testing.T) {
	t.Parallel()
	for command, want := range map[string]string{
		"bogus":           "kooworker: kooworker has no command \"bogus\"\nhint: kooworker help lists the commands\n",
		"batch bogus":     "kooworker: kooworker batch has no command \"bogus\"\nhint: kooworker help batch lists the commands\n",
		"batch show more": "kooworker: kooworker batch show has no command \"more\"\nhint: kooworker help batch show shows its flags\n",
	} {
		r := kooworker(t, "", append([]string{"help"}, strings.Fields(command)...)...)
		if r.code != exitUsage || r.stderr != want || r.stdout != "" {
			t.Errorf("help %s: %+v; want exit 2 and %q", command, r, want)
		}
	}
}

// A person sees on the first screen what to set.
func TestHelp_WorkerShowsTheFirstFlagsFirst(t *testing.T) {
	t.Parallel()
	help := kooworker(t, "", "worker", "--help").stdout
	first, rest, _ := strings.Cut(help, "\nKooDrive:\n")
	if lines := strings.Count(first, "\n"); lines > 45 {
		t.Errorf("%d lines before the other flags; want at most 45, as a screen has:\n%s", lines, first)
	}
	for _, name := range firstFlags {
		if !strings.Contains(first, "  --"+name) || strings.Contains(rest, "  --"+name+"=") {
			t.Errorf("--%s is not in the first group only; want it there\n%s", name, help)
		}
	}
	for _, want := range []string{"Examples:", "KOODRIVE_TOKEN_FILE"} {
		if !strings.Contains(first, want) {
			t.Errorf("no %q in the first part; want it\n%s", want, first)
		}
	}
	last := -1
	for _, title := range []string{"Set these first:", "KooDrive:", "Retries:", "Complete batches:", "Sweeps of stale locks:", "Sources of locks:", "Logging (to stderr):", "Tasks:", "Redis:", "Other:"} {
		at := strings.Index("\n"+help, "\n"+title+"\n")
		if at <= last {
			t.Errorf("the group %q begins at %d; want it after %d", title, at, last)
		}
		last = at
	}
	if strings.Contains(help, "\nFlags:\n") {
		t.Errorf("there are flags without a group; want none:\n%s", help)
	}
}

// commandLines runs an example in a shell, and returns the arguments of kooworker.
func commandLines(t *testing.T, folder, example string) (lines [][]string) {
	t.Helper()
	// jq and psql are not run. bash has <(…).
	program := `kooworker() { { printf '%s\n' "$@"; echo --end--; } >&3; }; jq() { :; }; psql() { :; }; source() { cat "$@"; }; HOME=$PWD
` + example
	out := output(t, "", folder, "bash", "-c", "exec 3>lines; mkdir -p .zfunc .config/fish/completions; ("+program+"\n) >/dev/null; exec 3>&-; cat lines")
	var line []string
	for word := range strings.Lines(out) {
		if word = strings.TrimSuffix(word, "\n"); word == "--end--" {
			lines, line = append(lines, line), nil
		} else {
			line = append(line, word)
		}
	}
	return lines
}

// Each command has examples, and each example is right.
func TestExamples(t *testing.T) {
	for name, value := range map[string]string{"REDIS_URL": "redis://127.0.0.1:1", "KOODRIVE_URL": "https://k.example", "KOODRIVE_TOKEN": "t"} {
		t.Setenv(name, value)
	}
	parser, err := newParser(new(cli), io.Discard, io.Discard, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for _, command := range parser.Model.Leaves(true) {
		name := command.Path()
		shown[name] = true
		if len(examples[name]) == 0 {
			t.Errorf("%s has no examples; want some in the table examples", name)
		}
		for _, example := range examples[name] {
			if help := kooworker(t, "", append(strings.Fields(name), "--help")...).stdout; !strings.Contains(help, "    "+example+"\n") {
				t.Errorf("the help of %s does not show %s; want it\n%s", name, example, help)
			}
			const width = 100 - 4 // of the help without its indent; lines of code are not wrapped
			if len(example) > width {
				t.Errorf("%s is %d characters long; want at most %d", example, len(example), width)
			}
			testExample(t, name, example)
		}
	}
	for name := range examples {
		if !shown[name] {
			t.Errorf("there are examples of %s, which is no command; want none", name)
		}
	}
}

func testExample(t *testing.T, name, example string) {
	t.Helper()
	folder := t.TempDir()
	t.Chdir(folder)
	for file, text := range map[string]string{"devices.csv": "user_id,device_id\n", "users.csv": "user_id\n", "locks.csv": "user_id,lock_id,expires_at\n"} {
		if err := os.WriteFile(filepath.Join(folder, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	lines := commandLines(t, folder, example)
	if len(lines) == 0 {
		t.Errorf("%s does not call kooworker; want it to", example)
	}
	for _, args := range lines {
		parser, err := newParser(new(cli), io.Discard, io.Discard, func(int) {})
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := parser.Parse(args)
		if err != nil || !strings.HasPrefix(parsed.Command(), name) {
			t.Errorf("%q: %v; want a command line of %s", args, err, name)
			continue
		}
		switch parsed.Selected().Name {
		case "worker", "demo", "simulator", "scheduler", "dashboard": // would listen, or wait for Redis
			continue
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // so that nothing but the flags is checked
		var stderr strings.Builder
		if code := run(ctx, args, strings.NewReader("user_id,device_id\n"), io.Discard, &stderr); code == exitUsage {
			t.Errorf("%q is wrong usage: %s", args, &stderr)
		}
	}
}
