package cancelable_test

import (
	"context"
	"errors"
	"testing"

	"go.uber.org/goleak"

	"github.com/kooworker/kooworker/internal/cancelable"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCall_ReturnsTheResult(t *testing.T) {
	t.Parallel()
	failed := errors.New("failed")
	if got, err := cancelable.Call(t.Context(), func() (int, error) { return 7, failed }); got != 7 || !errors.Is(err, failed) {
		t.Errorf("%d, %v; want what the function returns", got, err)
	}
}

func TestCall_EndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	release := make(chan struct{})
	got, err := cancelable.Call(ctx, func() (int, error) {
		cancel()
		<-release
		return 7, nil
	})
	close(release)
	if got != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("%d, %v; want 0 and the context's error", got, err)
	}
}
