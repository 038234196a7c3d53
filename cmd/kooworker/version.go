package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"
)

// A build without a Git folder, such as that of the image, sets these with -ldflags
// "-X main.version=v1.2.3 -X main.commit=… -X main.commitTime=2026-11-27T12:00:00Z". What
// is not set comes from what Go has recorded of the Git folder.
var (
	version    = ""
	commit     = ""
	commitTime = "" // RFC 3339
)

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
	b := buildInfo{Version: version, Commit: commit, Go: runtime.Version(), Time: time.Now()}
	settings := map[string]string{}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			settings[s.Key] = s.Value
		}
		b.Version = cmp.Or(b.Version, info.Main.Version)
	}
	if b.Commit == "" {
		b.Commit = cmp.Or(settings["vcs.revision"], "unknown")
		if settings["vcs.modified"] == "true" {
			b.Commit += "-modified"
		}
	}
	if at, err := time.Parse(time.RFC3339, cmp.Or(commitTime, settings["vcs.time"])); err == nil {
		b.Time = at
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
