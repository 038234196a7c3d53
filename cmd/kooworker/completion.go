package main

import (
	"github.com/alecthomas/kong"

	"github.com/kooworker/kooworker/cmd/kooworker/internal/completion"
	"github.com/kooworker/kooworker/cmd/kooworker/internal/manpage"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Run implements the command.
func (c *completionCmd) Run(e *env, parsed *kong.Context) error {
	return completion.Write(e.stdout, c.Shell, parsed.Model)
}

type manCmd struct{}

// Run implements the command.
func (c *manCmd) Run(e *env, parsed *kong.Context) error {
	b := build()
	return manpage.Page{Version: "kooworker " + b.Version, Date: b.Time}.Write(e.stdout, parsed.Model)
}
