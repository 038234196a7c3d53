// Command check reads the compose file, the Dockerfiles and the Kubernetes manifests with
// the libraries of docker compose, BuildKit, kustomize and Kubernetes, and checks that
// they keep what this project promises of its deployment. It needs neither a container
// engine, nor a cluster, nor a registry.
//
// It is a module of its own, because the worker's module needs none of its
// dependencies.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) != 4 {
		fmt.Fprintln(stderr, "usage: check COMPOSE_FILE DOCKERFILE DOCKERFILE_OF_RELEASES KUBERNETES_FOLDER")
		return 2
	}

	status := 0
	for _, file := range []struct {
		name  string
		check func(context.Context, string) ([]string, error)
	}{
		{args[0], checkCompose},
		{args[1], checkDockerfile},
		{args[2], checkDockerfile},
		{args[3], checkKubernetes},
	} {
		problems, err := file.check(ctx, file.name)
		if err != nil {
			problems = append(problems, err.Error())
		}
		for _, problem := range problems {
			fmt.Fprintf(stderr, "%s: %s\n", file.name, problem)
			status = 1
		}
		if len(problems) == 0 {
			fmt.Fprintf(stdout, "%s: ok\n", file.name)
		}
	}
	return status
}
