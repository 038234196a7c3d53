package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"
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

	Time time.Time `json:"-"` // of the commit; today if it is not known
}

func build() buildInfo {
	b := buildInfo{Version: version, Commit: "unknown", Go: runtime.Version(), Time: time.Now()}
	if info, ok := debug.ReadBuildInfo(); ok {
		settings := map[string]string{}
		for _, s := range info.Settings {
			settings[s.Key] = s.Value
		}
		b.Version = cmp.Or(b.Version, info.Main.Version)
		b.Commit = cmp.Or(settings["vcs.revision"], b.Commit)
		if at, err := time.Parse(time.RFC3339, settings["vcs.time"]); err == nil {
			b.Time = at
		}
		if settings["vcs.modified"] == "true" {
			b.Commit += "-modified"
		}
	}
	if b.Version == "" || b.Version == "(devel)" {
		b.Version = "devel"
	}
	return b
}

// String returns the line for people.
func (b buildInfo) String() string {
	return fmt.Sprintf("kooworker %s, commit %s, %s", b.Version, b.Commit, b.Go)
}

// Run implements the command.
func (c *versionCmd) Run(e *env) error {
	if c.JSON {
		return writeJSON(e.stdout, build())
	}
	fmt.Fprintln(e.stdout, build())
	return nil
}
