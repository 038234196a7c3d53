package gate

import (
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/kooworker/kooworker/tasks"
)

// BenchmarkAcquireAndReport is what the gate costs a call that succeeds: by one
// goroutine, and by many that want the gate's lock.
func BenchmarkAcquireAndReport(b *testing.B) {
	const users = 1000
	newGate := func(b *testing.B) (pass func(n int)) {
		b.Helper()
		g, err := New(Config{MaxInFlight: 64})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(g.Stop)
		var calls [users]Call
		for i := range calls {
			calls[i] = Call{Kind: Unbind, User: "user-" + strconv.Itoa(i), Target: "1775406005920779393"}
		}
		return func(n int) {
			permit, refusal := g.Acquire(b.Context(), calls[n%users])
			if refusal == nil {
				refusal = permit.Report(b.Context(), Answer{Reason: tasks.OK})
			}
			if refusal != nil {
				b.Error(refusal)
			}
		}
	}
	b.Run("by one", func(b *testing.B) {
		pass := newGate(b)
		b.ReportAllocs()
		for n := 0; b.Loop(); n++ {
			pass(n)
		}
	})
	b.Run("by many", func(b *testing.B) {
		pass := newGate(b)
		b.SetParallelism(32)
		b.ReportAllocs()
		var n atomic.Int64
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				pass(int(n.Add(1)))
			}
		})
	})
}
