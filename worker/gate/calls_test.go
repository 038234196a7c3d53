package gate

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// Each kind of calls has its own counts and times. A 429 is no measure of how long calls
// take.
func TestStatus_CallsByKind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{})
		call := func(kind Kind, user string, took time.Duration, reason tasks.Reason) {
			b.latency, b.answer = took, always(reason)
			b.call(t.Context(), Call{Kind: kind, User: user})
		}
		for range 3 {
			call(Unbind, "u-1", 100*time.Millisecond, tasks.OK)
			call(Unbind, "u-2", 300*time.Millisecond, tasks.Gone)
			call(List, "u-1", 50*time.Millisecond, tasks.OK)
		}
		call(Unbind, "u-3", time.Millisecond, tasks.Throttled)
		s := b.Status()
		for kind, want := range map[Kind]struct {
			calls, overQuota uint64
			mean             float64
		}{Unbind: {7, 1, 0.2}, List: {3, 0, 0.05}, Release: {0, 0, 0}} {
			if q := s.Quotas[kind]; q.Calls != want.calls || q.OverQuota != want.overQuota || math.Abs(q.Lately.Mean()-want.mean) > 1e-6 {
				t.Errorf("%s: %d calls, %d over the quota, %.3f s each; want %+v", kind, q.Calls, q.OverQuota, q.Lately.Mean(), want)
			}
		}
		if s.Calls != 10 || s.OverQuota != 1 {
			t.Errorf("%d calls, %d over the quota; want the sums 10 and 1", s.Calls, s.OverQuota)
		}

		// Later calls count more.
		for range 2 * lately {
			call(Unbind, "u-1", time.Second, tasks.OK)
		}
		s = b.Status()
		if q := s.Quotas[Unbind].Lately; math.Abs(q.Mean()-1) > 0.01 || q.Calls > lately {
			t.Errorf("%.3f s, over %.0f calls; want 1 s, over no more than %d", q.Mean(), q.Calls, lately)
		}
		if mean := s.Quotas[List].Lately.Mean(); math.Abs(mean-0.05) > 1e-6 {
			t.Errorf("%.3f s; want what the calls of the other kind took", mean)
		}
	})
}

// What a worker has got of the quota is 0 when it has not got anything lately.
func TestStatus_GrantedIsOfLately(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{Rate: 100})
		for range 300 {
			b.do(t.Context())
		}
		if got := b.Status().Quotas[Unbind].Granted; got < 20 || got > 110 {
			t.Errorf("%.0f calls a second; want about as many as were made", got)
		}
		time.Sleep(5 * time.Second) //nolint:forbidigo // in a bubble
		if got := b.Status().Quotas[Unbind].Granted; got > 1 {
			t.Errorf("%.0f calls a second after five seconds without any; want 0", got)
		}
	})
}
