package fleet

import (
	"testing"
	"time"

	"github.com/kooworker/kooworker/internal/redistest"
)

func TestCountWorkers(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	counts := func(want int64) func() bool {
		return func() bool {
			n, err := CountWorkers(t.Context(), rdb)
			if err != nil {
				t.Fatal(err)
			}
			return n == want
		}
	}
	if !counts(0)() {
		t.Error("workers in an empty Redis; want none")
	}
	_, stop := join(t, server)
	_, stopOther := join(t, server)
	redistest.Eventually(t, 10*time.Second, "two workers are counted", counts(2))
	stop()
	stopOther()
	if !counts(0)() {
		t.Error("workers after all have stopped; want none")
	}
	rdb.Set(t.Context(), workersKey, "of a later version", 0)
	if n, err := CountWorkers(t.Context(), rdb); err == nil {
		t.Errorf("%d workers in a key that cannot be read; want an error", n)
	}
}
