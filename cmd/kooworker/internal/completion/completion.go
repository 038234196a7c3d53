// Package completion writes the scripts with which bash, zsh and fish complete command
// lines. They are made of kong's model of the command line, and call nothing but the
// shell: commands, flags, the values of flags, and file names.
//
// Only the subcommand completion imports it. It imports no other package of this module.
package completion

import (
	_ "embed"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/template"

	"github.com/alecthomas/kong"
)

// The scripts of the shells.
var (
	//go:embed bash.tmpl
	bash string
	//go:embed zsh.tmpl
	zsh string
	//go:embed fish.tmpl
	fish string
)

// Write writes the script of a shell: bash, zsh or fish.
func Write(w io.Writer, shell string, app *kong.Application) error {
	text, ok := map[string]string{"bash": bash, "zsh": zsh, "fish": fish}[shell]
	if !ok {
		return fmt.Errorf("no completion for the shell %q; want bash, zsh or fish", shell)
	}
	script, err := template.New(shell).Funcs(template.FuncMap{
		"quote": quote, "fishQuote": fishQuote, "zshSpec": zshSpec, "join": strings.Join, "ident": ident,
	}).Parse(text)
	if err != nil {
		return fmt.Errorf("template of %s: %w", shell, err)
	}
	if err := script.Execute(w, map[string]any{"App": app.Name, "Commands": commandsOf(app.Node)}); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}

// command is what a shell knows of a command.
type command struct {
	Path     string // such as "kooworker batch show"
	Name     string
	Help     string
	Children []command
	Flags    []flag // also those of all commands
	Values   []string
}

// flag is what a shell knows of a flag.
type flag struct {
	Name, Help, PlaceHolder string
	Short                   string   // a letter; empty: there is none
	Values                  []string // that it can have; empty: any
	TakesValue, IsFile      bool
	IsRepeatable            bool
}

// Names returns the flag as it is written: --help and -h.
func (f flag) Names() []string {
	if f.Short == "" {
		return []string{"--" + f.Name}
	}
	return []string{"--" + f.Name, "-" + f.Short}
}

// Words returns all flags as they are written.
func (c command) Words() (words []string) {
	for _, f := range c.Flags {
		words = append(words, f.Names()...)
	}
	return words
}

// Names returns the names of the sub-commands.
func (c command) Names() (names []string) {
	for _, child := range c.Children {
		names = append(names, child.Name)
	}
	return names
}

// commandsOf returns a command and all commands below it. Hidden ones are left out.
func commandsOf(node *kong.Node) []command {
	c := commandOf(node)
	all := []command{}
	for _, child := range node.Children {
		if !child.Hidden {
			below := commandsOf(child)
			c.Children = append(c.Children, below[0])
			all = append(all, below...)
		}
	}
	return append([]command{c}, all...)
}

func commandOf(node *kong.Node) command {
	c := command{Path: node.FullPath(), Name: node.Name, Help: firstSentence(node.Help)}
	for _, level := range node.AllFlags(true) {
		for _, f := range level {
			c.Flags = append(c.Flags, flagsOf(f)...)
		}
	}
	if len(node.Positional) > 0 {
		c.Values = valuesOf(node.Positional[0])
	}
	return c
}

// flagsOf returns a flag, and the one that negates it if there is one.
func flagsOf(f *kong.Flag) []flag {
	out := flag{
		Name: f.Name, Help: firstSentence(f.Help), PlaceHolder: f.FormatPlaceHolder(), Values: valuesOf(f.Value),
		TakesValue: !f.IsBool() && !f.IsCounter(), IsFile: f.PlaceHolder == "FILE", IsRepeatable: f.IsCumulative(),
	}
	if f.Short != 0 {
		out.Short = string(f.Short)
	}
	if f.Tag.Negatable == "" {
		return []flag{out}
	}
	return []flag{out, {Name: "no-" + f.Name, Help: "Not --" + f.Name + "."}}
}

// valuesOf returns the values of an enum. The empty one is left out.
func valuesOf(v *kong.Value) []string {
	if v.Enum == "" {
		return nil
	}
	return slices.DeleteFunc(v.EnumSlice(), func(value string) bool { return value == "" })
}

// firstSentence returns what fits beside a word in a list.
func firstSentence(help string) string {
	sentence, _, _ := strings.Cut(help, ". ")
	return strings.TrimSuffix(sentence, ".")
}

// ident makes the name of a shell function of a path.
func ident(path string) string { return strings.NewReplacer(" ", "_", "-", "_").Replace(path) }

// quote quotes a word for bash and zsh.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// fishQuote quotes a word for fish.
func fishQuote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// zshSpec escapes what _arguments and _describe would take for syntax.
func zshSpec(s string) string {
	return strings.NewReplacer(`\`, `\\`, `:`, `\:`, `[`, `\[`, `]`, `\]`).Replace(s)
}
