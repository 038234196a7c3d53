package deadletter

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

// BenchmarkRead reads a page of the index, and measures the CPU time that Redis takes for all of it; and
// looks for letters of another user in the page.
func BenchmarkRead(b *testing.B) {
	s := NewStore(redistest.Start(b).Client())
	for i := range 2000 {
		task := tasks.DeviceUnbind{UserID: "user-000000", DeviceID: fmt.Sprint("device-", i)}
		payload, err := tasks.Encode(task, tasks.Intent{EnqueuedAt: time.Now()})
		if err != nil {
			b.Fatal(err)
		}
		l := Letter{
			ID: tasks.Identity(task), Kind: task.Kind(), Queue: "unbind", Payload: payload, UserID: task.UserID, Target: task.DeviceID,
			Reason: tasks.Forbidden, Error: "forbidden: HTTP 403, code 0001, of a typical length for an error", DeadAt: time.Now(),
		}
		if err := s.Park(b.Context(), l); err != nil {
			b.Fatal(err)
		}
	}
	for _, n := range []int{50, 200} {
		b.Run(fmt.Sprint("read/", n), func(b *testing.B) {
			src, err := s.source(b.Context(), Filter{UserID: "user-000000"})
			if err != nil {
				b.Fatal(err)
			}
			before := cpu(b, s)
			for b.Loop() {
				if _, _, _, err := s.read(b.Context(), src, Position{}, n); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric((cpu(b, s)-before)*1e6/float64(b.N), "redis-us/op")
		})
		b.Run(fmt.Sprint("select/", n), func(b *testing.B) {
			src, err := s.source(b.Context(), Filter{UserID: "user-000000"})
			if err != nil {
				b.Fatal(err)
			}
			page, _, _, err := s.read(b.Context(), src, Position{}, n)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				src.selectFrom(Filter{UserID: "x"}, page)
			}
		})
	}
}

// cpu returns the CPU time that Redis has used, in seconds.
func cpu(b *testing.B, s *Store) (total float64) {
	b.Helper()
	info := s.rdb.Info(b.Context(), "cpu").Val()
	for _, name := range []string{"used_cpu_sys:", "used_cpu_user:"} {
		_, rest, _ := strings.Cut(info, name)
		f, err := strconv.ParseFloat(rest[:strings.IndexAny(rest, "\r\n")], 64)
		if err != nil {
			b.Fatal(err)
		}
		total += f
	}
	return total
}
