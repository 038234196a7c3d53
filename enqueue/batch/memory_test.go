package batch_test

import (
	"fmt"
	"slices"
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

// docs/scale.md says how much memory receipts take.
func TestReceipts_Memory(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const n = 20_000
	for name, tc := range map[string]struct {
		device *tasks.Device
		want   int64 // bytes at most
	}{
		"without a device": {nil, 100},
		"with a device": {&tasks.Device{
			DeviceID: "1775406005920779393", MachineCode: "m1775406005920779393", DeviceName: "a phone", DeviceOS: "android", CreateTime: time.Unix(1e9, 0),
		}, 280},
	} {
		id, indexes := b.closedBatch(t, batch.Spec{}, n)
		for chunk := range slices.Chunk(indexes, 1000) {
			receipts := make([]tasks.Receipt, 0, len(chunk))
			for _, index := range chunk {
				receipts = append(receipts, tasks.Receipt{
					BatchRef: tasks.BatchRef{Batch: id, Index: index}, Kind: tasks.KindDeviceUnbind, UserID: fmt.Sprint(2767695448066263931 + index/3),
					Target: fmt.Sprint(1522152155618356877 + index), Outcome: tasks.Succeeded, Reason: tasks.OK, Attempts: 1, Device: tc.device,
				})
			}
			b.recordOutcomes(t, receipts...)
		}
		used, err := b.rdb.MemoryUsage(t.Context(), "kooworker:{batch:"+id+"}:receipts", 0).Result()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d bytes for each receipt", name, used/n)
		if each := used / n; each > tc.want || each < tc.want/2 {
			t.Errorf("%s: %d bytes for each receipt; want %d at most, and half of that at least", name, each, tc.want)
		}
	}
}
