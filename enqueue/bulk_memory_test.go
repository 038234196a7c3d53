package enqueue_test

import (
	"bytes"
	"errors"
	"io"
	"iter"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/enqueue/records"
	"github.com/kooworker/kooworker/tasks"
)

// peakHeap watches the heap until it is stopped. stop returns by how many bytes it has
// grown at most.
func peakHeap(tb testing.TB) (stop func() int64) {
	tb.Helper()
	heap := func() int64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc) //nolint:gosec // no heap has so many bytes
	}
	runtime.GC()
	before := heap()
	stopping, peak := make(chan struct{}), make(chan int64)
	go func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		worst := int64(0)
		for {
			select {
			case <-stopping:
				peak <- worst
				return
			case <-tick.C:
				worst = max(worst, heap()-before)
			}
		}
	}()
	return func() int64 { close(stopping); return <-peak }
}

// manyLines reads a header, and then so many lines. Each is its number between prefix
// and suffix.
type manyLines struct {
	header, prefix, suffix string

	n, i int
	rest bytes.Buffer
}

// Read implements io.Reader.
func (l *manyLines) Read(p []byte) (int, error) {
	if l.rest.Len() == 0 {
		if l.i == l.n {
			return 0, io.EOF
		}
		if l.i == 0 {
			l.rest.WriteString(l.header)
		}
		l.rest.WriteString(l.prefix)
		l.rest.WriteString(strconv.Itoa(l.i))
		l.rest.WriteString(l.suffix)
		l.i++
	}
	return l.rest.Read(p)
}

// A bulk keeps some thousand items in memory. Long lines must not make that a lot of
// memory, whether they are refused or hold a task in long columns that nobody reads.
func TestBulk_MemoryWithLongLines(t *testing.T) { //nolint:paralleltest // it measures the heap of the process
	b := setup(t)
	const most = 100 << 20
	long, longish := strings.Repeat("x", 1<<20-10), strings.Repeat("y", 60<<10)
	refused := func(header string, lines int) *manyLines {
		return &manyLines{header: header, prefix: long, suffix: "\n", n: lines}
	}
	for _, tc := range []struct {
		name     string
		input    iter.Seq2[tasks.Task, error]
		batch    *batch.Spec
		total    int64
		rejected int64
	}{
		{"refused CSV", csvOf(refused("user_id,device_id\n", 1200)), nil, 1200, 1200},
		{"refused CSV, batch", csvOf(refused("user_id,device_id\n", 300)), &batch.Spec{ID: "b-1"}, 300, 300},
		// The ledger knows the items of a whole chunk and compares them.
		{"refused CSV, resumed batch", csvOf(refused("user_id,device_id\n", 300)), &batch.Spec{ID: "b-1"}, 300, 300},
		{"refused JSONL", jsonlOf(refused("", 300)), nil, 300, 300},
		{"refused tasks", func(yield func(tasks.Task, error) bool) {
			for range 300 {
				if !yield(tasks.DeviceUnbind{UserID: "u", DeviceID: strings.Clone(long)}, nil) {
					return
				}
			}
		}, nil, 300, 300},
		{"long CSV", csvOf(&manyLines{"user_id,device_id,note\n", "u,d-", "," + longish + "\n", 4000, 0, bytes.Buffer{}}), nil, 4000, 0},
		{"long CSV in quotes", csvOf(&manyLines{"user_id,device_id,note\n", "u,e-", ",\"" + longish + "\"\n", 4000, 0, bytes.Buffer{}}), nil, 4000, 0},
		{"long JSONL", jsonlOf(&manyLines{"", `{"user_id":"u","device_id":"f-`, `","note":"` + longish + "\"}\n", 1000, 0, bytes.Buffer{}}), nil, 1000, 0},
	} {
		t.Run(tc.name, func(t *testing.T) { //nolint:paralleltest // it measures the heap of the process
			reported := int64(0)
			o := enqueue.BulkOptions{Batch: tc.batch, OnItem: func(item enqueue.Item) {
				bad, ok := errors.AsType[*records.LineError](item.Err)
				if ok && len(bad.Text) >= len(long) && !bad.Truncated || isFieldError(item.Err) {
					reported++
				}
			}}
			peak := peakHeap(t)
			res, err := b.client.Bulk(t.Context(), tc.input, o)
			grown := peak()
			t.Logf("the heap has grown by %d MB", grown>>20)
			if err != nil || res.Total != tc.total || res.Rejected != tc.rejected || reported != tc.rejected {
				t.Errorf("%+v, %v, and %d whole items were reported as rejected; want %d of %d rejected and reported", res, err, reported, tc.rejected, tc.total)
			}
			if grown > most {
				t.Errorf("the heap has grown by %d MB; want at most %d", grown>>20, most>>20)
			}
		})
	}
}

func isFieldError(err error) bool {
	_, ok := errors.AsType[*tasks.FieldError](err)
	return ok
}

func csvOf(r io.Reader) iter.Seq2[tasks.Task, error] {
	return records.TasksCSV(tasks.KindDeviceUnbind, r)
}

func jsonlOf(r io.Reader) iter.Seq2[tasks.Task, error] {
	return records.TasksJSONL(tasks.KindDeviceUnbind, r)
}
