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
