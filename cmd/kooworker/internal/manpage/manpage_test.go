package manpage_test

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/kooworker/kooworker/cmd/kooworker/internal/manpage"
)

// hostile is a command line whose texts look like requests of troff.
type hostile struct {
	Odd oddCmd `cmd:"" help:".so /etc/passwd"`
}

type oddCmd struct {
	Flag string `help:"'tis a \\fBbackslash\\fP… a long line that is broken somewhere before .dots and 'quotes' and ~tildes."`
}

// Help implements kong.HelpProvider.
func (oddCmd) Help() string { return "Examples:\n\n  .odd 'one' \\\n\n'more\n" }

// make test installs mandoc.
func TestWrite_EscapesTexts(t *testing.T) {
	t.Parallel()
	parser, err := kong.New(new(hostile), kong.Name("odd"), kong.Description("Does odd things.\n\n.Not a request."))
	if err != nil {
		t.Fatal(err)
	}
	var page bytes.Buffer
	if err := (manpage.Page{Version: `odd "1"`, Date: time.Unix(0, 0).UTC()}).Write(&page, parser.Model); err != nil {
		t.Fatal(err)
	}
	mandoc := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), "mandoc", args...)
		cmd.Stdin = bytes.NewReader(page.Bytes())
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("mandoc %q: %v\n%s\n%s; want no error (make test installs what is missing)", args, err, out, &page)
		}
		return string(out)
	}
	if got := mandoc("-Tlint", "-Wwarning"); got != "" {
		t.Errorf("%s\n%s; want no warnings", got, &page)
	}
	shown := strings.Join(strings.Fields(mandoc("-Tutf8", "-Owidth=300")), " ")
	for _, want := range []string{
		".so /etc/passwd", `'tis a \fBbackslash\fP… a long line that is broken somewhere before .dots and 'quotes' and ~tildes.`,
		`.odd 'one' \`, "'more", ".Not a request.", `odd "1"`, "1970-01-01",
	} {
		if !strings.Contains(shown, want) {
			t.Errorf("no %q; want it in:\n%s\n%s", want, shown, &page)
		}
	}
}
