package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by the release build with -ldflags "-X main.version=v1.2.3".
var version = ""

type versionCmd struct {
	JSON bool `help:"Print one JSON object."`
}

type buildInfo struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Go      string `json:"go"`
}

func build() buildInfo {
	b := buildInfo{Version: version, Commit: "unknown", Go: runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		settings := map[string]string{}
		for _, s := range info.Settings {
			settings[s.Key] = s.Value
		}
		b.Version = cmp.Or(b.Version, info.Main.Version)
		b.Commit = cmp.Or(settings["vcs.revision"], b.Commit)
		if settings["vcs.modified"] == "true" {
			b.Commit += "-modified"
		}
	}
	if b.Version == "" || b.Version == "(devel)" {
		b.Version = "devel"
	}
	return b
}

// Run implements the command.
func (c *versionCmd) Run(e *env) error {
	b := build()
	if c.JSON {
		return writeJSON(e.stdout, b)
	}
	fmt.Fprintf(e.stdout, "kooworker %s, commit %s, %s\n", b.Version, b.Commit, b.Go)
	return nil
}
