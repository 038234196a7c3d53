package batch_test

import (
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

// slowestPing pings Redis on its own connection until it is stopped. stop returns
// the time of the slowest reply.
func (b *bundle) slowestPing(tb testing.TB) (stop func() time.Duration) {
	tb.Helper()
	rdb := b.redis.Client()
	stopping, stopped := make(chan struct{}), make(chan time.Duration)
	go func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		var worst time.Duration
		for {
			select {
			case <-stopping:
				stopped <- worst
				return
			case <-tick.C:
			}
			start := time.Now()
			if err := rdb.Ping(tb.Context()).Err(); err != nil {
				tb.Error(err)
			}
			worst = max(worst, time.Since(start))
		}
	}()
	return func() time.Duration { close(stopping); return <-stopped }
}

// A task takes one byte at most, so ten million tasks fit into 10 MB.
func TestStore_Memory(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const n = 1_000_000
	id := b.open(t, batch.Spec{})
	var rolling batch.RollingDigest
	digests, marks := make([]batch.Digest, 0, batch.ChunkSize), make([]batch.Mark, batch.ChunkSize)
	marking, start := b.slowestPing(t), time.Now()
	for read := 0; read < n; read += len(digests) {
		digests = digests[:0]
		for range min(batch.ChunkSize, n-read) {
			rolling.AddTask(tasks.DeviceUnbind{UserID: "u", DeviceID: "d"})
			digests = append(digests, rolling.Digest())
		}
		c := b.claim(t, id, read/batch.ChunkSize, digests)
		for i := range digests {
			marks[i] = batch.Mark{Index: c.Index(i), State: batch.Queued}
		}
		if err := b.store.Mark(t.Context(), id, marks[:len(digests)], nil); err != nil {
			t.Fatal(err)
		}
	}
	b.closeInput(t, id, n)
	t.Logf("claimed and marked in %s; slowest PING meanwhile: %s", time.Since(start), marking())

	var total int64
	for name := range b.ttls(t, id) {
		used, err := b.rdb.MemoryUsage(t.Context(), "kooworker:{batch:"+id+"}:"+name, 0).Result()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d bytes", name, used)
		total += used
	}
	if total > n {
		t.Errorf("%d tasks take %d bytes; want at most one byte each", n, total)
	}

	auditing := b.slowestPing(t)
	start = time.Now()
	if got, want := counts(b.stats(t, id)), (tasks.BatchStats{Total: n, Queued: n}); got != want {
		t.Errorf("%+v; want %+v", got, want)
	}
	t.Logf("audit in %s; slowest PING meanwhile: %s", time.Since(start), auditing())
}
