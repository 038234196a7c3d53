package batch_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bundle is a ledger in its own Redis server.
type bundle struct {
	store *batch.Store
	rdb   redis.UniversalClient
	redis *redistest.Server
}

func setup(tb testing.TB) *bundle {
	tb.Helper()
	server := redistest.Start(tb)
	rdb := server.Client()
	return &bundle{store: batch.NewStore(rdb), rdb: rdb, redis: server}
}

// hooked returns a store whose client calls act before each command of this
// name, and before each pipeline that contains one.
func (b *bundle) hooked(name string, act func()) *batch.Store {
	rdb := b.redis.Client()
	rdb.AddHook(before{name, act})
	return batch.NewStore(rdb)
}

type before struct {
	name string
	act  func()
}

func (before) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h before) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == h.name {
			h.act()
		}
		return next(ctx, cmd)
	}
}

func (h before) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if slices.ContainsFunc(cmds, func(c redis.Cmder) bool { return c.Name() == h.name }) {
			h.act()
		}
		return next(ctx, cmds)
	}
}

func (b *bundle) open(tb testing.TB, spec batch.Spec) string {
	tb.Helper()
	id, _, err := b.store.Open(tb.Context(), spec)
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

// input returns n tasks. Another salt gives other tasks.
func input(salt string, n int) []tasks.Task {
	items := make([]tasks.Task, n)
	for i := range items {
		items[i] = tasks.DeviceUnbind{UserID: "u" + salt, DeviceID: fmt.Sprint("d", i)}
	}
	return items
}

// digests returns the rolling digest after each item.
func digests(items []tasks.Task) []batch.Digest {
	var rolling batch.RollingDigest
	all := make([]batch.Digest, len(items))
	for i, item := range items {
		rolling.AddTask(item)
		all[i] = rolling.Digest()
	}
	return all
}

// chunkOf returns the n'th chunk's part of an input's digests.
func chunkOf(all []batch.Digest, n int) []batch.Digest {
	from := min(n*batch.ChunkSize, len(all))
	return all[from:min(from+batch.ChunkSize, len(all))]
}

// claim claims a chunk, which must succeed.
func (b *bundle) claim(tb testing.TB, id string, n int, digests []batch.Digest) batch.Chunk {
	tb.Helper()
	c, err := b.store.ClaimChunk(tb.Context(), id, int64(n), digests)
	if err != nil || c.Need != 0 {
		tb.Fatalf("claim %d items of chunk %d: need %d, %v; want them claimed", len(digests), n, c.Need, err)
	}
	return c
}

func (b *bundle) mark(tb testing.TB, id string, state batch.State, indexes ...int64) {
	tb.Helper()
	marks := make([]batch.Mark, len(indexes))
	for i, index := range indexes {
		marks[i] = batch.Mark{Index: index, State: state}
	}
	if err := b.store.Mark(tb.Context(), id, marks, nil); err != nil {
		tb.Fatal(err)
	}
}

// queue claims an input of n tasks and marks them as queued. It returns their
// indexes.
func (b *bundle) queue(tb testing.TB, id string, n int) []int64 {
	tb.Helper()
	all := digests(input("", n))
	var indexes []int64
	for i := 0; i*batch.ChunkSize < n; i++ {
		part := chunkOf(all, i)
		c := b.claim(tb, id, i, part)
		from := len(indexes)
		for j := range part {
			indexes = append(indexes, c.Index(j))
		}
		b.mark(tb, id, batch.Queued, indexes[from:]...)
	}
	return indexes
}

// closedBatch opens a batch of n queued tasks and closes its input.
func (b *bundle) closedBatch(tb testing.TB, spec batch.Spec, n int) (id string, indexes []int64) {
	tb.Helper()
	id = b.open(tb, spec)
	indexes = b.queue(tb, id, n)
	b.closeInput(tb, id, n)
	return id, indexes
}

// closeInput closes the input, and reports whether this completes the batch.
func (b *bundle) closeInput(tb testing.TB, id string, items int) (completed bool) {
	tb.Helper()
	before := b.stats(tb, id).CompletedAt
	if err := b.store.CloseInput(tb.Context(), id, int64(items)); err != nil {
		tb.Fatal(err)
	}
	return b.stats(tb, id).CompletedAt != before
}

func receipt(id string, index int64, outcome tasks.Outcome) tasks.Receipt {
	return tasks.Receipt{
		BatchRef: tasks.BatchRef{Batch: id, Index: index}, Kind: tasks.KindDeviceUnbind, UserID: "u", Target: fmt.Sprint("d", index),
		Outcome: outcome, Reason: tasks.OK, Attempts: 1,
	}
}

func (b *bundle) recordOutcomes(tb testing.TB, receipts ...tasks.Receipt) (completed []string) {
	tb.Helper()
	completed, _, err := b.store.RecordOutcomes(tb.Context(), receipts)
	if err != nil {
		tb.Fatal(err)
	}
	return completed
}

// recordAll records the same outcome for all of these indexes.
func (b *bundle) recordAll(tb testing.TB, id string, indexes []int64, outcome tasks.Outcome) (completed []string) {
	tb.Helper()
	var receipts []tasks.Receipt
	for _, i := range indexes {
		receipts = append(receipts, receipt(id, i, outcome))
	}
	return b.recordOutcomes(tb, receipts...)
}

// stats returns the counts of a batch, whose audit must be clean.
func (b *bundle) stats(tb testing.TB, id string) tasks.BatchStats {
	tb.Helper()
	audit, err := b.store.Audit(tb.Context(), id)
	if err != nil || !audit.Clean() {
		tb.Errorf("audit of batch %s: %q, %v; want it clean", id, audit.Problems, err)
	}
	shown, err := b.store.Show(tb.Context(), id)
	if err != nil {
		tb.Fatal(err)
	}
	if diff := cmp.Diff(audit.Stats, shown); diff != "" {
		tb.Errorf("Audit and Show disagree (-audit +show):\n%s", diff)
	}
	return shown
}

func (b *bundle) receipts(tb testing.TB, id string, o batch.ReceiptOptions) []tasks.Receipt {
	tb.Helper()
	var all []tasks.Receipt
	for r, err := range b.store.Receipts(tb.Context(), id, o) {
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// ttls returns the keys with a batch's hash tag, and the time until each expires:
// -1ns if it does not expire.
func (b *bundle) ttls(tb testing.TB, id string) map[string]time.Duration {
	tb.Helper()
	prefix := "kooworker:{batch:" + id + "}:"
	names, err := b.rdb.Keys(tb.Context(), prefix+"*").Result()
	if err != nil {
		tb.Fatal(err)
	}
	all := make(map[string]time.Duration)
	for _, name := range names {
		ttl, err := b.rdb.PTTL(tb.Context(), name).Result()
		if err != nil {
			tb.Fatal(err)
		}
		all[name[len(prefix):]] = ttl
	}
	return all
}

// expire makes a batch's keys expire now.
func (b *bundle) expire(tb testing.TB, id string) {
	tb.Helper()
	for name := range b.ttls(tb, id) {
		if err := b.rdb.PExpire(tb.Context(), "kooworker:{batch:"+id+"}:"+name, time.Millisecond).Err(); err != nil {
			tb.Fatal(err)
		}
	}
	redistest.Eventually(tb, 10*time.Second, "the keys have expired", func() bool { return len(b.ttls(tb, id)) == 0 })
}
