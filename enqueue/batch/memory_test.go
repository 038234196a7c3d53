package batch_test

import (
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

// slowest pings Redis on a connection of its own until it is stopped, and
// returns the slowest answer.
func (b *bundle) slowest(tb testing.TB) (stop func() time.Duration) {
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

// A task takes a byte at most: ten million have room in 10 MB.
func TestMemory(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const n = 1_000_000
	id := b.open(t, batch.Spec{})
	var roll batch.RollingDigest
	digests, marks := make([]batch.Digest, 0, batch.ChunkSize), make([]batch.Mark, batch.ChunkSize)
	marking, start := b.slowest(t), time.Now()
	for read := 0; read < n; read += len(digests) {
		digests = digests[:0]
		for range min(batch.ChunkSize, n-read) {
			roll.Task(tasks.DeviceUnbind{UserID: "u", DeviceID: "d"})
			digests = append(digests, roll.Digest())
		}
		c := b.claim(t, id, read/batch.ChunkSize, digests)
		for i := range digests {
			marks[i] = batch.Mark{Index: c.Index(i), State: batch.Queued}
		}
		if err := b.store.Mark(t.Context(), id, marks[:len(digests)], nil); err != nil {
			t.Fatal(err)
		}
	}
	b.seal(t, id, n)
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
		t.Errorf("%d tasks take %d bytes; want no more than one each", n, total)
	}

	auditing := b.slowest(t)
	start = time.Now()
	if got, want := standing(b.balance(t, id)), (tasks.BatchStats{Total: n, Queued: n}); got != want {
		t.Errorf("%+v; want %+v", got, want)
	}
	t.Logf("audit in %s; slowest PING meanwhile: %s", time.Since(start), auditing())
}
