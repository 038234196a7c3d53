package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/opencontainers/go-digest"
)

// checkDockerfile applies BuildKit's own rules, those of `docker build --check`,
// and the rules of this project for the final stage.
func checkDockerfile(ctx context.Context, name string) ([]string, error) {
	text, err := os.ReadFile(name) //nolint:gosec // the file that was named on the command line
	if err != nil {
		return nil, err
	}

	problems, err := lint(ctx, name, text)
	if err != nil {
		return nil, err
	}
	parsed, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	stages, _, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		return nil, err
	}
	return append(problems, finalStage(stages)...), nil
}

func lint(ctx context.Context, name string, text []byte) ([]string, error) {
	source := llb.NewSourceMap(nil, name, "Dockerfile", text)
	source.Definition = &llb.Definition{} // read from disk: no build step made it
	results, err := dockerfile2llb.DockerfileLint(ctx, text, dockerfile2llb.ConvertOpt{
		SourceMap:    source,
		MetaResolver: offline{},
	})
	if err != nil {
		return nil, err
	}
	var problems []string
	if results.Error != nil {
		problems = append(problems, results.Error.Message)
	}
	for _, warning := range results.Warnings {
		line := int32(0)
		if ranges := warning.Location.GetRanges(); len(ranges) > 0 {
			line = ranges[0].GetStart().GetLine()
		}
		problems = append(problems, fmt.Sprintf("line %d: %s: %s", line, warning.RuleName, warning.Detail))
	}
	return problems, nil
}

// finalStage checks what deploy/README.md says of the image.
func finalStage(stages []instructions.Stage) (problems []string) {
	var user string
	var entrypoint *instructions.EntrypointCommand
	var health *instructions.HealthCheckCommand
	files := map[string]bool{}
	for _, command := range stages[len(stages)-1].Commands {
		switch command := command.(type) {
		case *instructions.UserCommand:
			user = command.User
		case *instructions.EntrypointCommand:
			entrypoint = command
		case *instructions.HealthCheckCommand:
			health = command
		case *instructions.CopyCommand:
			files[command.DestPath] = true
			// BuildKit takes an unknown stage for an image and would pull it.
			if _, ok := instructions.HasStage(stages, command.From); !ok {
				problems = append(problems, fmt.Sprintf("the final stage copies from %q, which is no stage", command.From))
			}
		case *instructions.RunCommand:
			problems = append(problems, "the final stage runs a command; it has no shell to run it")
		}
	}

	uid, _, _ := strings.Cut(user, ":")
	if id, err := strconv.Atoi(uid); err != nil || id == 0 {
		problems = append(problems, fmt.Sprintf("the final stage runs as %q: want a USER by number that is not 0", user))
	}
	switch {
	case entrypoint == nil || entrypoint.PrependShell:
		problems = append(problems, "the final stage wants an ENTRYPOINT in JSON form: there is no shell to pass signals on")
	case !files[entrypoint.CmdLine[0]]:
		problems = append(problems, fmt.Sprintf("the ENTRYPOINT %q is no file that the image holds", entrypoint.CmdLine[0]))
	}
	// The first word says how the others are run: CMD is without a shell.
	if health == nil || len(health.Health.Test) != 3 || health.Health.Test[0] != "CMD" || !files[health.Health.Test[1]] || health.Health.Test[2] != "healthcheck" {
		problems = append(problems, `the final stage wants a HEALTHCHECK in JSON form, that runs kooworker healthcheck`)
	}
	return problems
}

// offline gives every image an empty configuration, so that BuildKit asks no
// registry.
type offline struct{}

var _ llb.ImageMetaResolver = offline{}

func (offline) ResolveImageConfig(_ context.Context, ref string, _ sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	config := []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers"},"config":{}}`)
	return ref, digest.FromBytes(config), config, nil
}
