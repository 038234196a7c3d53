package main

import (
	"runtime"
	"runtime/debug"
)

// version is set by the release build: -ldflags "-X main.version=v1.2.3".
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
	info, ok := debug.ReadBuildInfo()
	if ok {
		if b.Version == "" {
			b.Version = info.Main.Version
		}
		modified := ""
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				b.Commit = s.Value
			case "vcs.modified":
				if s.Value == "true" {
					modified = "-modified"
				}
			}
		}
		b.Commit += modified
	}
	if b.Version == "" || b.Version == "(devel)" {
		b.Version = "devel"
	}
	return b
}

// Run implements the command.
func (c *versionCmd) Run(a *app) error {
	b := build()
	if c.JSON {
		return writeJSON(a.stdout, b)
	}
	say(a.stdout, "kooworker %s, commit %s, %s\n", b.Version, b.Commit, b.Go)
	return nil
}
