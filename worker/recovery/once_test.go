package recovery_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/worker/recovery"
)

// A lease without a task evens out an active task without a lease: there are as many IDs in
// the one as in the other.
func TestRunOnce_LeaseWithoutATask(t *testing.T) {
	t.Parallel()
	for name, ends := range map[string]time.Time{"has expired": ago(2 * time.Minute), "lasts": ago(-25 * time.Second)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.enqueue(unbind, "no-lease")
			b.take(unbind, "no-lease", ago(-time.Minute))
			b.must(b.rdb.ZRem(t.Context(), key(unbind, "lease"), "no-lease").Err())
			b.must(b.rdb.ZAdd(t.Context(), key(unbind, "lease"), redis.Z{Score: float64(ends.Unix()), Member: "ghost"}).Err())
			found := func(faults []recovery.Fault) bool {
				for _, f := range faults {
					if f.Repair == recovery.Leased && f.N == 1 {
						return true
					}
				}
				return false
			}
			if faults, err := recovery.Examine(t.Context(), b.rdb, recovery.ExamineOptions{}); err != nil || !found(faults) {
				t.Errorf("%+v, %v; want the active task without a lease among them", faults, err)
			}
			b.must(b.repairer().RunOnce(t.Context()))
			if n := b.counts.of(recovery.Leased); n != 1 {
				t.Errorf("%d tasks got a lease; want 1", n)
			}
			if faults, err := recovery.Examine(t.Context(), b.rdb, recovery.ExamineOptions{Scan: true}); err != nil || len(faults) > 0 {
				t.Errorf("after one repair: %+v, %v; want no fault", faults, err)
			}
		})
	}
}
