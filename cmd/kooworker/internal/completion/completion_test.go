package completion_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/kooworker/kooworker/cmd/kooworker/internal/completion"
)

// hostile is a command line whose texts look like the syntax of shells.
type hostile struct {
	It struct {
		Flag string `help:"It's [one]: $(touch run) %F{red} \\ \"two\" > run; touch run &." placeholder:"A:B" enum:"a,b" default:"a"`
		List []string
	} `cmd:"" help:"It's [one]: $(touch run) \\ ; touch run &."`
}

// Texts are shown, and never run. make test installs the shells.
func TestWrite_QuotesTexts(t *testing.T) {
	t.Parallel()
	parser, err := kong.New(new(hostile), kong.Name("it-s"))
	if err != nil {
		t.Fatal(err)
	}
	for shell, program := range map[string]string{
		"bash": `source "$0"; COMP_WORDS=(it-s it --fl); COMP_CWORD=2; _it_s; echo "${COMPREPLY[@]}"`,
		"zsh":  `compdef() { :; }; _arguments() { print -rl -- "$@"; }; source "$0"; _it_s_it`,
		"fish": `source $argv[1]; complete -C 'it-s it --fl'`,
	} {
		folder := t.TempDir()
		var script bytes.Buffer
		if err := completion.Write(&script, shell, parser.Model); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(folder, "script")
		if err := os.WriteFile(path, script.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), shell, "-c", program, path)
		cmd.Dir, cmd.Env = folder, append(os.Environ(), "HOME="+folder)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--flag") {
			t.Errorf("%s: %v: %s; want --flag (make test installs what is missing)\n%s", shell, err, out, &script)
		}
		if _, err := os.Stat(filepath.Join(folder, "run")); err == nil {
			t.Errorf("%s ran a command of a text; want it to show the text\n%s", shell, &script)
		}
	}
}

func TestWrite_UnknownShell(t *testing.T) {
	t.Parallel()
	parser, err := kong.New(new(hostile))
	if err != nil {
		t.Fatal(err)
	}
	if err := completion.Write(&bytes.Buffer{}, "tcsh", parser.Model); err == nil || !strings.Contains(err.Error(), "want bash, zsh or fish") {
		t.Errorf("%v; want an error that names the shells", err)
	}
}
