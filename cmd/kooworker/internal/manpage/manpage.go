// Package manpage writes the manual page of a program, in the macros man(7), from kong's
// model of its command line.
//
// Only the subcommand man imports it. It imports no other package of this module.
package manpage

import (
	_ "embed"
	"fmt"
	"io"
	"strings"
	"text/template"
	"time"
	"unicode"

	"github.com/alecthomas/kong"
)

//go:embed manpage.tmpl
var page string

// Page is what the manual page says beyond the model.
type Page struct {
	Version string
	Date    time.Time
}

// Write writes the manual page of a program.
func (p Page) Write(w io.Writer, app *kong.Application) error {
	t, err := template.New("manpage").Funcs(template.FuncMap{"text": text, "prose": prose, "detail": detail, "groups": groups, "envs": envs, "upper": strings.ToUpper}).Parse(page)
	if err != nil {
		return fmt.Errorf("template of the manual page: %w", err)
	}
	summary, more, _ := strings.Cut(app.Help, "\n\n")
	err = t.Execute(w, map[string]any{
		"App": app, "Version": p.Version, "Date": p.Date.Format(time.DateOnly), "Summary": strings.TrimSuffix(summary, "."), "More": more, "Leaves": app.Leaves(true),
	})
	if err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}

// escape replaces what troff would take for syntax, or for typographic characters.
var escape = strings.NewReplacer(`\`, `\e`, `-`, `\-`, `'`, `\(aq`, "`", "\\(ga", `^`, `\(ha`, `~`, `\(ti`, `"`, `\(dq`)

// text escapes a text for troff, and puts it on one line.
func text(s string) string {
	var out strings.Builder
	for _, r := range escape.Replace(s) {
		if r > unicode.MaxASCII {
			fmt.Fprintf(&out, `\[u%04X]`, r)
		} else {
			out.WriteRune(r)
		}
	}
	return protect(out.String())
}

// protect keeps troff from taking the line for a request.
func protect(line string) string {
	if strings.HasPrefix(line, ".") {
		return `\&` + line
	}
	return line
}

// prose escapes a text, and breaks it into short lines. troff fills them again.
func prose(s string) string {
	const width = 78
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(s) {
		word = strings.TrimPrefix(text(word), `\&`)
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, protect(line)), ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return strings.Join(append(lines, protect(line)), "\n")
}

// detail is the longer help of a command, in which indented lines are code.
func detail(s string) string {
	var out strings.Builder
	isCode := false
	for line := range strings.Lines(s) {
		line = strings.TrimRight(line, "\n")
		code := strings.HasPrefix(line, "  ")
		switch {
		case line == "":
			continue
		case code && !isCode:
			out.WriteString(".PP\n.EX\n")
		case !code && isCode:
			out.WriteString(".EE\n.PP\n")
		case !code:
			out.WriteString(".PP\n")
		}
		isCode = code
		if code {
			out.WriteString(text(strings.TrimSpace(line)) + "\n")
		} else {
			out.WriteString(prose(line) + "\n")
		}
	}
	if isCode {
		out.WriteString(".EE\n")
	}
	return out.String()
}

// group is flags that belong together.
type group struct {
	Title, Description string
	Flags              []*kong.Flag
}

// groups returns the flags of a command by their groups, without those of all commands.
func groups(flags []*kong.Flag) (out []group) {
	for _, f := range flags {
		if f.Hidden {
			continue
		}
		var g group
		if f.Group != nil {
			g = group{Title: strings.TrimSuffix(f.Group.Title, ":"), Description: f.Group.Description}
		}
		i := 0
		for i < len(out) && out[i].Title != g.Title {
			i++
		}
		if i == len(out) {
			out = append(out, g)
		}
		out[i].Flags = append(out[i].Flags, f)
	}
	return out
}

// envs are the environment variables of a flag.
func envs(f *kong.Flag) string {
	if len(f.Envs) == 0 {
		return ""
	}
	return "Environment: " + strings.Join(f.Envs, ", ") + "."
}
