package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

type helpCmd struct {
	Command []string `arg:"" optional:"" help:"The command, such as: batch show. Without it, all commands are listed."`
}

// Run implements the command.
func (c *helpCmd) Run(parsed *kong.Context) error {
	node := parsed.Model.Node
	for _, name := range c.Command {
		parent := node
		if node = childNamed(parent, name); node == nil {
			hint := strings.Replace(parent.FullPath(), "kooworker", "kooworker help", 1) + " lists the commands"
			if parent.Leaf() {
				hint = strings.Replace(hint, "lists the commands", "shows its flags", 1)
			}
			return commandError{fmt.Errorf("%s has no command %q", parent.FullPath(), name), exitUsage, hint}
		}
	}
	selected, err := kong.Trace(parsed.Kong, c.Command)
	if err != nil {
		return fmt.Errorf("show the help: %w", err)
	}
	return selected.PrintUsage(false)
}

// childNamed returns the sub-command of that name; nil: there is none.
func childNamed(node *kong.Node, name string) *kong.Node {
	i := slices.IndexFunc(node.Children, func(child *kong.Node) bool { return child.Name == name })
	if i < 0 {
		return nil
	}
	return node.Children[i]
}

// firstFlags are the flags of a worker that its help shows before all others.
var firstFlags = []string{
	"koodrive-url", "auth", "redis-url", "concurrency", "rate", "admin-addr", "max-attempts", "shutdown-timeout", "with-scheduler", "webhook-url",
}

const firstHelp = `KooDrive's credential is set in the environment: KOODRIVE_TOKEN, KOODRIVE_TOKEN_FILE or KOODRIVE_TOKEN_URL.`

// printHelp prints the help of a command. The help of a worker shows the flags first that
// matter most, and those of all commands last.
func printHelp(o kong.HelpOptions, parsed *kong.Context) error {
	if node := parsed.Selected(); node != nil && node.Path() == "worker" {
		var flags []*kong.Flag
		for _, level := range slices.Backward(node.AllFlags(true)) {
			flags = append(flags, level...)
		}
		node.Flags, node.Parent.Flags = sortFlags(flags, firstFlags), nil
	}
	return kong.DefaultHelpPrinter(o, parsed)
}

// sortFlags moves the flags of these names to the front, into the group "first". A flag
// that is in no group gets into the last one, because kong prints such flags first.
func sortFlags(flags []*kong.Flag, names []string) []*kong.Flag {
	rank := func(flag *kong.Flag) int {
		if i := slices.Index(names, flag.Name); i >= 0 {
			return i
		}
		return len(names)
	}
	slices.SortStableFunc(flags, func(a, b *kong.Flag) int { return rank(a) - rank(b) })
	for _, flag := range flags {
		switch {
		case rank(flag) < len(names):
			flag.Group = &kong.Group{Key: "first", Title: "Set these first:", Description: firstHelp}
		case flag.Group == nil:
			flag.Group = &kong.Group{Key: "other", Title: "Other:"}
		}
	}
	return flags
}
