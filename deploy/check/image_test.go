package main

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// TestDockerfile_Builds runs the build's own command on the files that .dockerignore lets
// through, as BuildKit would: without the folder .git. The binary must tell the version
// and the commit that were handed over.
func TestDockerfile_Builds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	copyContext(t, filepath.Join("..", ".."), dir)
	binary := filepath.Join(t.TempDir(), "kooworker")
	script := buildCommand(t)
	if !strings.Contains(script, "/out/kooworker") {
		t.Fatalf("%q does not build /out/kooworker: the test is out of date", script)
	}
	build := exec.CommandContext(t.Context(), "/bin/sh", "-c", strings.ReplaceAll(script, "/out/kooworker", binary))
	build.Dir = dir
	build.Env = append(os.Environ(), "VERSION=v1.2.3", "REVISION=0123456789abcdef", "TARGETOS="+runtime.GOOS, "TARGETARCH="+runtime.GOARCH)
	if said, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, said)
	}
	said, err := exec.CommandContext(t.Context(), binary, "version", "--json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Version, Commit string }
	if err := json.Unmarshal(said, &got); err != nil || got.Version != "v1.2.3" || got.Commit != "0123456789abcdef" {
		t.Errorf("%s, %v; want the version v1.2.3 and the commit 0123456789abcdef", said, err)
	}
}

// buildCommand returns the last RUN of the Dockerfile's first stage, for a shell.
func buildCommand(t *testing.T) (script string) {
	t.Helper()
	file, err := os.Open(dockerFile)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	parsed, err := parser.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	stages, _, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range stages[0].Commands {
		if run, ok := command.(*instructions.RunCommand); ok {
			script = strings.Join(run.CmdLine, " ")
		}
	}
	return script
}

// copyContext copies what a build is sent.
func copyContext(t *testing.T, from, to string) {
	t.Helper()
	file, err := os.Open(filepath.Join(from, ".dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	patterns, err := ignorefile.ReadAll(file)
	if err != nil {
		t.Fatal(err)
	}
	ignored, err := patternmatcher.New(patterns)
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil || name == "." {
			return err
		}
		if entry.IsDir() && (name == ".git" || name == "bin" || name == "dist") {
			return fs.SkipDir // no pattern lets them through, and they are large
		}
		skip, err := ignored.MatchesOrParentMatches(name)
		if err != nil || skip || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path) //nolint:gosec // a file of the repository
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
			return err
		}
		return os.WriteFile(target, text, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(to, ".git")); err == nil {
		t.Fatal("the context holds .git; want it to be left out")
	}
}
