package worker

import (
	"context"
	"errors"
	"iter"

	"github.com/kooworker/kooworker/tasks"
)

// noReleases is a ReleaseEnqueuer for tests without sweeps.
type noReleases struct{}

// NoReleases is noReleases for the tests outside of the package.
type NoReleases = noReleases

func (noReleases) EnqueueReleases(context.Context, string, iter.Seq2[tasks.Task, error]) ([]tasks.Task, error) {
	return nil, errors.New("not in this test")
}
