package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/distribution/reference"
)

// settings stand in for what an operator must set to start the services.
var settings = []string{
	"KOODRIVE_URL=https://koodrive.example.com",
	"KOODRIVE_TOKEN_FILE=/dev/null",
}

// checkCompose loads the file as `docker compose config` does: schema,
// interpolation, includes and references among its parts.
func checkCompose(ctx context.Context, name string) ([]string, error) {
	project, err := loadCompose(ctx, name, settings, "*") // those that are off by default are checked too
	if err != nil {
		return nil, err
	}

	var problems []string
	for _, service := range project.Services {
		for _, problem := range slices.Concat(
			confinement(service), exposure(service), credentials(service), grace(service), mounts(service), composeDashboard(service),
		) {
			problems = append(problems, "service "+service.Name+": "+problem)
		}
	}
	problems = append(problems, isolation(project)...)
	slices.Sort(problems)
	return problems, nil
}

// loadCompose loads the services of some profiles, and those that are in none.
func loadCompose(ctx context.Context, name string, env []string, profiles ...string) (*types.Project, error) {
	options, err := cli.NewProjectOptions([]string{name},
		cli.WithWorkingDirectory(filepath.Dir(name)),
		cli.WithEnv(env),
		cli.WithProfiles(profiles),
	)
	if err != nil {
		return nil, err
	}
	return options.LoadProject(ctx)
}

// confinement demands of every service the restrictions that cost it nothing.
func confinement(s types.ServiceConfig) (problems []string) {
	if s.Privileged {
		problems = append(problems, "is privileged")
	}
	if !s.ReadOnly {
		problems = append(problems, "may write to its own file system: set read_only")
	}
	if !slices.Contains(s.CapDrop, "ALL") || len(s.CapAdd) > 0 {
		problems = append(problems, "keeps capabilities: cap_drop [ALL] and no cap_add")
	}
	if !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
		problems = append(problems, "may gain privileges: security_opt no-new-privileges:true")
	}
	image, err := reference.ParseNormalizedNamed(s.Image)
	if err != nil {
		return append(problems, fmt.Sprintf("image %q: %v", s.Image, err))
	}
	tagged, ok := image.(reference.Tagged)
	if _, digested := image.(reference.Digested); !digested && (!ok || tagged.Tag() == "latest") {
		problems = append(problems, fmt.Sprintf("image %q changes by itself: name a version", s.Image))
	}
	return problems
}

// exposure demands that no service listens beyond this machine: only the dashboard asks for
// a password, and it asks without TLS.
func exposure(s types.ServiceConfig) (problems []string) {
	for _, port := range s.Ports {
		if port.HostIP != "127.0.0.1" && port.HostIP != "::1" {
			problems = append(problems, fmt.Sprintf("port %d is published beyond this machine", port.Target))
		}
	}
	if s.Name == "worker" && len(s.Ports) > 0 {
		problems = append(problems, "publishes a port, so that only one worker can run: --scale worker=3 must work")
	}
	if s.NetworkMode == "host" {
		problems = append(problems, "shares the machine's network")
	}
	return problems
}

// mounts demands that no service changes a file of this machine.
func mounts(s types.ServiceConfig) (problems []string) {
	for _, volume := range s.Volumes {
		if volume.Type == types.VolumeTypeBind && !volume.ReadOnly {
			problems = append(problems, fmt.Sprintf("may change %s of this machine: read_only", volume.Target))
		}
	}
	return problems
}

// credentials demands that a secret comes as a file, never as a variable with a
// value.
func credentials(s types.ServiceConfig) (problems []string) {
	for name, value := range s.Environment {
		secret := strings.Contains(name, "TOKEN") || strings.Contains(name, "SECRET") || strings.Contains(name, "PASSWORD")
		pointer := strings.HasSuffix(name, "_FILE") || strings.HasSuffix(name, "_URL")
		if secret && !pointer && value != nil && *value != "" {
			problems = append(problems, name+" has a value: hand it over as a secret")
		}
	}
	return problems
}

// grace demands that the engine waits until a worker has put its tasks back
// before it kills the worker.
func grace(s types.ServiceConfig) []string {
	const variable = "KOOWORKER_SHUTDOWN_TIMEOUT"
	value := s.Environment[variable]
	if value == nil {
		return nil
	}
	timeout, err := time.ParseDuration(*value)
	if err != nil {
		return []string{fmt.Sprintf("%s: %v", variable, err)}
	}
	if s.StopGracePeriod == nil || time.Duration(*s.StopGracePeriod) <= timeout {
		return []string{fmt.Sprintf("stop_grace_period must be longer than %s, which is %s", variable, timeout)}
	}
	return nil
}

// isolation demands an internal network for Redis, because Redis has no password.
func isolation(p *types.Project) (problems []string) {
	redis, ok := p.Services["redis"]
	if !ok {
		return []string{"there is no service redis"}
	}
	if len(redis.Ports) > 0 {
		problems = append(problems, "service redis: publishes a port and has no password")
	}
	for _, s := range p.Services {
		// These need no Redis, and would order deletions if somebody took them over.
		_, near := s.Networks["queue"]
		if near && (s.Name == "prometheus" || s.Name == "grafana") {
			problems = append(problems, "service "+s.Name+": is on the network of Redis, and does not need it")
		}
	}
	for name := range redis.Networks {
		if !p.Networks[name].Internal {
			problems = append(problems, fmt.Sprintf("service redis: is on network %q, which is not internal", name))
		}
	}
	return problems
}
