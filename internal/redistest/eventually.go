package redistest

import (
	"testing"
	"time"
)

// Eventually polls until cond holds, and fails the test when it does not
// within the given time. It is how a test waits for another process.
func Eventually(tb testing.TB, within time.Duration, what string, cond func() bool) {
	tb.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if cond() {
			return
		}
		select {
		case <-deadline.C:
			if cond() {
				return
			}
			tb.Fatalf("not within %s: %s", within, what)
		case <-tick.C:
		}
	}
}
