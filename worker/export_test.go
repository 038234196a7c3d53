package worker

import (
	"context"
	"errors"
	"iter"

	"github.com/kooworker/kooworker/tasks"
)

// noReleases is for tests in which nothing is swept.
type noReleases struct{}

// NoReleases is noReleases for the tests outside of the package.
type NoReleases = noReleases

func (noReleases) EnqueueReleases(context.Context, string, iter.Seq2[tasks.Task, error]) ([]tasks.Task, error) {
	return nil, errors.New("not in this test")
}
