package deadletter_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

func TestReplay_Canary(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name       string
		minSuccess float64
		broken     bool // everything fails again
		left       int
	}{
		{"enough succeed", 0.9, false, 0},
		{"too few succeed", 0.9, true, 40},
		{"none need to succeed", 0, true, 40},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			tried := make(chan string, 100)
			b.work(t, func(l deadletter.Letter) error {
				tried <- l.Target
				if tc.broken {
					return failure{"forbidden: still", far}
				}
				return nil
			})
			const n, size = 40, 10
			for i := range n {
				if err := b.store.Park(t.Context(), letter(t, "u", fmt.Sprint(i), tasks.Intent{})); err != nil {
					t.Fatal(err)
				}
			}
			b.awaitParked(t, n)
			res, err := b.store.Replay(t.Context(), deadletter.Filter{}, deadletter.Options{
				Canary: deadletter.Canary{Size: size, MinSuccess: tc.minSuccess, Timeout: 20 * time.Second},
			})
			failed, isCanary := errors.AsType[*deadletter.CanaryError](err)
			if wantFail := tc.broken && tc.minSuccess > 0; isCanary != wantFail || err != nil && !isCanary {
				t.Fatalf("replay: %+v, %v; want a CanaryError: %v", res, err, wantFail)
			}
			if isCanary && (failed.Replayed != size || failed.Succeeded != 0 || res.Done != size || len(tried) != size) {
				t.Errorf("%+v, %+v, %d tried; want the canary of %d and no more", failed, res, len(tried), size)
			}
			if !isCanary && res.Done != n {
				t.Errorf("replay: %+v; want %d done", res, n)
			}
			b.awaitParked(t, tc.left)
		})
	}
}

func TestReplay_CanaryHangs(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work(t, func(deadletter.Letter) error { return failure{"throttled: for an hour", time.Hour} })
	for i := range 3 {
		if err := b.store.Park(t.Context(), letter(t, "u", fmt.Sprint(i), tasks.Intent{})); err != nil {
			t.Fatal(err)
		}
	}
	b.awaitParked(t, 3)
	res, err := b.store.Replay(t.Context(), deadletter.Filter{}, deadletter.Options{
		Canary: deadletter.Canary{Size: 2, MinSuccess: 0.5, Timeout: time.Second},
	})
	if _, ok := errors.AsType[*deadletter.CanaryError](err); !ok || res.Done != 2 {
		t.Errorf("replay: %+v, %v; want 2 done and a CanaryError", res, err)
	}
	if _, err := b.store.Replay(t.Context(), deadletter.Filter{}, deadletter.Options{Canary: deadletter.Canary{Size: -1}}); err == nil {
		t.Error("Replay accepts a canary of -1; want an error")
	}
}
