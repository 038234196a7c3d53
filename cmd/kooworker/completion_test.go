package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/creack/pty"
	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/internal/redistest"
)

// completionScript writes the script of a shell to a file, and returns its path.
func completionScript(t *testing.T, shell string) string {
	t.Helper()
	r := kooworker(t, "", "completion", shell)
	if r.code != exitDone || r.stderr != "" {
		t.Fatalf("%+v; want exit 0", r)
	}
	path := filepath.Join(t.TempDir(), "_kooworker")
	if err := os.WriteFile(path, []byte(r.stdout), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// output runs a program, which must succeed without a word on stderr. make test installs
// the programs.
func output(t *testing.T, stdin, folder, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = folder, strings.NewReader(stdin), &stdout, &stderr
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "LC_ALL=C.UTF-8")
	if err := cmd.Run(); err != nil || stderr.Len() > 0 {
		t.Fatalf("%s %q: %v\n%s%s; want no error (make test installs what is missing)", name, args, err, &stdout, &stderr)
	}
	return stdout.String()
}

func TestCompletion_ShellsAcceptTheScripts(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish"} {
		output(t, "", "", shell, "-n", completionScript(t, shell))
	}
}

// completions are command lines with the candidates that begin with the last word.
var completions = map[string][]string{
	"kooworker ba":                                 {"batch"},
	"kooworker batch sh":                           {"show"},
	"kooworker --redis-url batch ba":               {"batch"}, // the first batch is a URL
	"kooworker --log-level error enqueue un":       {"unbind"},
	"kooworker dead replay --can":                  {"--canary"},
	"kooworker dead replay --redis-c":              {"--redis-cluster"},
	"kooworker worker --no-log":                    {"--no-log-successes"},
	"kooworker worker --auth ":                     {"app", "token"},
	"kooworker simulator --auth n":                 {"none"},
	"kooworker simulator --log-level=":             {"debug", "error", "info", "warn"},
	"kooworker completion ":                        {"bash", "fish", "zsh"},
	"kooworker help batch rec":                     {"receipts"},
	"kooworker enqueue unbind --user-id batch sh":  nil,
	"kooworker enqueue unbind --file dev":          {"devices 1.csv"},
	"kooworker enqueue unbind --rejects=dev":       {"devices 1.csv"},
	"kooworker enqueue unbind --device-id dev":     nil,
	"kooworker man":                                nil, // man is hidden
	"kooworker worker --poll":                      nil, // and so is --pollers
	"kooworker enqueue unbind --format json --use": {"--user-id"},
}

func folderWithDevices(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "devices 1.csv"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return folder
}

func TestCompletion_Bash(t *testing.T) {
	t.Parallel()
	script, folder := completionScript(t, "bash"), folderWithDevices(t)
	for line, want := range completions {
		// Like readline, which breaks words at = as well.
		words := strings.Fields(strings.ReplaceAll(line, "=", " = "))
		if strings.HasSuffix(line, " ") {
			words = append(words, "")
		}
		program := `source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _kooworker; printf '%s\n' "${COMPREPLY[@]}"`
		got := strings.Split(strings.TrimSpace(output(t, "", folder, "bash", slices.Concat([]string{"-uc", program, script}, words)...)), "\n")
		got = slices.DeleteFunc(got, func(word string) bool { return word == "" })
		slices.Sort(got)
		if diff := cmp.Diff(want, got, emptyIsNil); diff != "" {
			t.Errorf("%q (-want +got):\n%s", line, diff)
		}
	}
}

var emptyIsNil = cmp.Transformer("emptyIsNil", func(words []string) []string { return append([]string(nil), words...) })

func TestCompletion_Fish(t *testing.T) {
	t.Parallel()
	script, folder := completionScript(t, "fish"), folderWithDevices(t)
	for line, want := range completions {
		var got []string
		for candidate := range strings.Lines(output(t, "", folder, "fish", "-c", `source $argv[1]; complete -C $argv[2]`, script, line)) {
			word, _, _ := strings.Cut(strings.TrimSuffix(candidate, "\n"), "\t")
			if flag, value, ok := strings.Cut(word, "="); ok && strings.Contains(line, flag+"=") {
				word = value
			}
			got = append(got, word)
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got, emptyIsNil); diff != "" {
			t.Errorf("%q (-want +got):\n%s", line, diff)
		}
	}
	if got := output(t, "", "", "fish", "-c", `source $argv[1]; complete -C 'kooworker ba'`, script); !strings.HasPrefix(got, "batch\tShow the progress") {
		t.Errorf("%q; want batch with its help", got)
	}
}

// zshSetup makes zsh write down when its line editor is ready, and what a line is completed
// to. The line itself is not run.
const zshSetup = `autoload -U compinit; compinit -u -D; source $SCRIPT; unsetopt automenu autolist
function show { print -r -- "<$BUFFER>" >> $RESULTS; BUFFER= }; zle -N show; bindkey '^J' show; bindkey '^I' complete-word
function zle-line-init { print ready >> $RESULTS }; zle -N zle-line-init
`

// zsh completes only on a terminal.
func TestCompletion_Zsh(t *testing.T) {
	t.Parallel()
	folder, results := t.TempDir(), filepath.Join(t.TempDir(), "results")
	if err := os.WriteFile(filepath.Join(folder, ".zshrc"), []byte(zshSetup), 0o600); err != nil {
		t.Fatal(err)
	}
	shell := exec.Command("zsh", "-i")
	shell.Dir = folderWithDevices(t)
	shell.Env = append(os.Environ(), "ZDOTDIR="+folder, "TERM=dumb", "LC_ALL=C.UTF-8", "SCRIPT="+completionScript(t, "zsh"), "RESULTS="+results)
	terminal, err := pty.StartWithSize(shell, &pty.Winsize{Rows: 50, Cols: 500})
	if err != nil {
		t.Fatal(err, "(make test installs zsh)")
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(io.Discard, terminal) // ends with the shell
	}()
	t.Cleanup(func() { _ = shell.Process.Kill(); _ = shell.Wait(); _ = terminal.Close(); <-read })
	wrote := func(want string) {
		t.Helper()
		redistest.Eventually(t, 30*time.Second, "zsh writes "+want, func() bool {
			text, err := os.ReadFile(results)
			return err == nil && strings.Contains(string(text), want)
		})
	}
	wrote("ready")
	for line, want := range completions {
		completed := line // of several candidates, what they have in common
		if len(want) == 1 {
			completed = line[:strings.LastIndexAny(line, " =")+1] + strings.ReplaceAll(want[0], " ", `\ `)
			if len(want[0]) > 2 && want[0][:2] == "--" && want[0] != "--no-log-successes" {
				completed += "=" // a value follows
			} else {
				completed += " "
			}
		}
		if _, err := io.WriteString(terminal, line+"\t\n"); err != nil {
			t.Fatal(err)
		}
		wrote("<" + completed + ">")
	}
}

func TestMan(t *testing.T) {
	t.Parallel()
	r := kooworker(t, "", "man")
	if r.code != exitDone || r.stderr != "" {
		t.Fatalf("exit %d, %s; want exit 0", r.code, r.stderr)
	}
	if got := output(t, r.stdout, "", "mandoc", "-Tlint", "-Wwarning"); got != "" {
		t.Errorf("mandoc: %s; want no warnings", got)
	}
	shown := output(t, r.stdout, "", "mandoc", "-Tutf8", "-Owidth=300")
	for bold := range strings.SplitSeq("\x08", "") { // a bold letter is written twice, with a backspace between
		for i := strings.Index(shown, bold); i > 0; i = strings.Index(shown, bold) {
			shown = shown[:i-1] + shown[i+1:]
		}
	}
	parser, err := newParser(new(cli), io.Discard, io.Discard, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	plain := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	shown = plain(shown)
	err = kong.Visit(parser.Model, func(n kong.Visitable, next kong.Next) error {
		var wants []string
		switch n := n.(type) {
		case *kong.Node:
			if n.Hidden {
				return nil
			}
			if n.Leaf() {
				wants = append(wants, n.FullPath()+" "+n.Help, n.Summary(), n.Detail)
			}
		case *kong.Flag:
			if !n.Hidden {
				wants = append(wants, "--"+n.Name, n.Help)
			}
		}
		for _, want := range wants {
			if !strings.Contains(shown, plain(want)) {
				t.Errorf("the manual page has no %q; want it", plain(want))
			}
		}
		return next(nil)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCompletion_FullDisk(t *testing.T) {
	t.Parallel()
	var stderr bytes.Buffer
	for _, args := range [][]string{{"completion", "zsh"}, {"man"}} {
		if code := run(t.Context(), args, strings.NewReader(""), failing{}, &stderr); code != exitFailed || !strings.Contains(stderr.String(), "write the output") {
			t.Errorf("%q: exit %d, %s; want exit 1, and 'write the output'", args, code, &stderr)
		}
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }
