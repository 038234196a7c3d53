//go:build chaos

package bulk_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/bulk"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// million is how many letters TestChaos_Million has, and matching how many its job replays.
const million, matching = 1_000_000, 100_000

// fillLetters writes n letters as they are stored, without any entry of the index. Every tenth died
// as forbidden, and the others as one of nine reasons; every fifth is a lock's; batch i
// has the letters from i*20,000, for the first half of all; there are 100,000 users. The letter
// i died i ms before now.
func (b *bundle) fillLetters(n int) {
	b.t.Helper()
	reasons := []tasks.Reason{
		tasks.Forbidden, tasks.Upstream, tasks.Invalid, tasks.TimedOut, tasks.Network, tasks.Protocol, tasks.Misrouted, tasks.Rejected, tasks.Expired, tasks.StillBound,
	}
	const user, target, batchID, at = "user-000000", "target-0000000", "batch-000", "2026-01-01T00:00:00.000007Z"
	diedAt, err := time.Parse(time.RFC3339Nano, at)
	b.must(err)
	type kind struct {
		reason tasks.Reason
		lock   bool
		batch  bool
	}
	templates := map[kind][]byte{}
	ids := map[kind]string{}
	for _, reason := range reasons {
		for _, lock := range []bool{false, true} {
			for _, inBatch := range []bool{false, true} {
				var task tasks.Task = tasks.DeviceUnbind{UserID: user, DeviceID: target}
				if lock {
					task = tasks.LockRelease{UserID: user, LockID: target}
				}
				in := tasks.Intent{EnqueuedAt: diedAt}
				if inBatch {
					in.BatchRef = tasks.BatchRef{Batch: batchID, Index: 7}
				}
				payload, err := tasks.Encode(task, in)
				b.must(err)
				l := deadletter.Letter{
					ID: tasks.Identity(task), Kind: task.Kind(), Queue: task.Queue(), Payload: payload, UserID: user, Target: target, Batch: in.BatchRef.Batch,
					Reason: reason, Error: string(reason) + ": HTTP 403, code 0001, of a typical length for an error", Attempts: 3, DeadAt: diedAt, EnqueuedAt: diedAt,
				}
				b.must(b.letters.Park(b.t.Context(), l))
				raw, err := b.rdb.HGet(b.t.Context(), asynqx.TaskKey(tasks.QueueDeadLetter, l.ID), "msg").Bytes()
				b.must(err)
				raw, err = asynqx.RewriteFailure(raw, 1, l.Error, diedAt)
				b.must(err)
				k := kind{reason, lock, inBatch}
				templates[k], ids[k] = raw, l.ID
				b.must(b.rdb.FlushAll(b.t.Context()).Err())
			}
		}
	}
	now := time.Now()
	park := float64(now.Add(far).Unix())
	var wg sync.WaitGroup
	const writers, exchange = 4, 500
	for w := range writers {
		wg.Go(func() {
			for from := w * exchange; from < n; from += writers * exchange {
				_, err := b.rdb.Pipelined(b.t.Context(), func(p redis.Pipeliner) error {
					for i := from; i < min(from+exchange, n); i++ {
						k := kind{reasons[i%10], i%50 < 10, i < n/2}
						died := now.Add(-time.Duration(i) * 10 * time.Millisecond).UTC().Truncate(10 * time.Microsecond).Add(7 * time.Microsecond)
						replace := strings.NewReplacer(
							user, fmt.Sprintf("user-%06d", i%100_000), target, fmt.Sprintf("target-%07d", i), batchID, fmt.Sprintf("batch-%03d", i/20_000),
							at, died.Format("2006-01-02T15:04:05.000000Z"),
						)
						id := replace.Replace(ids[k])
						msg := replace.Replace(string(templates[k]))
						p.HSet(b.t.Context(), asynqx.TaskKey(tasks.QueueDeadLetter, id), "msg", msg, "state", "retry")
						p.ZAdd(b.t.Context(), asynqx.RetryKey(tasks.QueueDeadLetter), redis.Z{Score: park, Member: id})
					}
					return nil
				})
				if err != nil {
					b.t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.must(b.rdb.SAdd(b.t.Context(), asynqx.AllQueuesKey, tasks.QueueDeadLetter).Err())
}

// silence is for how long Redis answers nobody, and for how long an idle Redis beside it does: that
// is the machine's doing, not ours.
type silence struct{ p99, longest, idleP99, idleLongest time.Duration }

func (s silence) String() string {
	return fmt.Sprintf("silent for %s (99th percentile %s); an idle Redis %s (%s)", s.longest.Round(10*time.Microsecond), s.p99.Round(10*time.Microsecond), s.idleLongest.Round(10*time.Microsecond), s.idleP99.Round(10*time.Microsecond))
}

// silence pings both each millisecond until stop is called.
func (b *bundle) silence() (stop func() silence) {
	ctx, cancel := context.WithCancel(b.t.Context())
	var took [2][]time.Duration
	var wg sync.WaitGroup
	for i, rdb := range []*redis.Client{b.redis.Client(), b.idle.Client()} {
		wg.Go(func() {
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				began := time.Now()
				if rdb.Ping(ctx).Err() == nil {
					took[i] = append(took[i], time.Since(began))
				}
				<-tick.C
			}
		})
	}
	return func() silence {
		cancel()
		wg.Wait()
		for i := range took {
			slices.Sort(took[i])
		}
		p99 := func(d []time.Duration) time.Duration { return d[len(d)*99/100] }
		return silence{p99(took[0]), took[0][len(took[0])-1], p99(took[1]), took[1][len(took[1])-1]}
	}
}

// within returns a number of µs within which 99 % of the scripts since the last call have run, and the most that
// one has taken, by the clock on the wall.
func (b *bundle) within() (p99, longest time.Duration) {
	b.t.Helper()
	reply, err := b.rdb.Do(b.t.Context(), "LATENCY", "HISTOGRAM", "evalsha").Result()
	b.must(err)
	defer func() { b.must(b.rdb.ConfigResetStat(b.t.Context()).Err()) }()
	byCommand, _ := reply.(map[any]any)
	evalsha, _ := byCommand["evalsha"].(map[any]any)
	calls, _ := evalsha["calls"].(int64)
	histogram, _ := evalsha["histogram_usec"].(map[any]any)
	var bounds []int64
	for bound := range histogram {
		bounds = append(bounds, bound.(int64))
	}
	slices.Sort(bounds)
	for _, bound := range bounds {
		longest = time.Duration(bound) * time.Microsecond
		if n, _ := histogram[bound].(int64); p99 == 0 && n*100 >= calls*99 {
			p99 = longest
		}
	}
	return p99, longest
}

func (b *bundle) usedMemory() int64 {
	b.t.Helper()
	info, err := b.rdb.Info(b.t.Context(), "memory").Result()
	b.must(err)
	_, rest, _ := strings.Cut(info, "used_memory:")
	n, err := strconv.ParseInt(rest[:strings.IndexAny(rest, "\r\n")], 10, 64)
	b.must(err)
	return n
}

// memoryOf returns the bytes of all keys of a pattern.
func (b *bundle) memoryOf(pattern string) (keys, total int64) {
	b.t.Helper()
	iter := b.rdb.Scan(b.t.Context(), 0, pattern, 10_000).Iterator()
	for iter.Next(b.t.Context()) {
		n, err := b.rdb.MemoryUsage(b.t.Context(), iter.Val(), 0).Result()
		b.must(err)
		keys, total = keys+1, total+n
	}
	b.must(iter.Err())
	return keys, total
}

// TestChaos_Million has a million dead letters: pages of each filter, and a job that replays
// 100,000 of them while its process is killed.
func TestChaos_Million(t *testing.T) {
	b := setup(t)
	b.idle = redistest.Start(t)
	ctx := t.Context()
	began := time.Now()
	b.fillLetters(million)
	bare := b.usedMemory()
	t.Logf("%d letters written in %s; %d bytes each without the index", million, time.Since(began).Round(time.Second), bare/million)

	b.within()
	quiet := b.silence()
	began = time.Now()
	b.must(b.letters.EnsureIndex(ctx))
	silent := quiet()
	p99, longest := b.within()
	t.Logf("indexed in %s; %s; scripts: 99 %% within %s, all within %s", time.Since(began).Round(time.Second), silent, p99, longest)
	t.Logf("the index takes %d bytes a letter", (b.usedMemory()-bare)/million)
	for _, pattern := range []string{"reason:*", "user:*", "batch:*", "sets", "misdated"} {
		keys, total := b.memoryOf("kooworker:{dead-letter}:" + pattern)
		t.Logf("%s: %d keys, %d MB, %.1f bytes a letter", pattern, keys, total>>20, float64(total)/million)
	}

	b.pages()

	// The worker takes no real call, so it is the process that replays which is measured.
	b.work(func(deadletter.Letter) error { return fmt.Errorf("forbidden: still") })
	b.within()
	quiet = b.silence()
	id := b.order(bulk.Order{Kind: bulk.Replay, Filter: forbidden})
	began = time.Now()
	p := b.startProcess()
	redistest.Eventually(t, 5*time.Minute, "half of the letters are replayed", func() bool { return b.get(id).Done >= matching/2 })
	p.kill()
	if j := b.get(id); j.Done >= matching {
		t.Fatalf("%+v; want it killed half-way", j)
	}
	b.startProcess()
	redistest.Eventually(t, 10*time.Minute, "the job has ended", func() bool { return !b.get(id).State.IsOpen() })
	t.Logf("replayed in %s", time.Since(began).Round(time.Second))
	if j := b.get(id); j.State != bulk.Done || j.Done != matching || j.Skipped != 0 {
		t.Errorf("%+v; want %d replayed", j, matching)
	}
	redistest.Eventually(t, 10*time.Minute, "all are dead again", func() bool {
		info, err := b.inspector.GetQueueInfo(tasks.QueueDeadLetter)
		return err == nil && info.Retry == million && info.Pending+info.Active == 0
	})
	silent = quiet()
	p99, longest = b.within()
	t.Logf("meanwhile %s; scripts: 99 %% within %s, all within %s", silent, p99, longest)
	tried := b.replays()
	twice := 0
	for _, n := range tried {
		if n != 1 {
			twice++
		}
	}
	if len(tried) != matching || twice != 0 {
		t.Errorf("%d letters were replayed, %d of them more than once; want %d, once each", len(tried), twice, matching)
	}
	for id := range tried {
		n, err := strconv.Atoi(id[len(id)-7:])
		if err != nil || n%10 != 0 {
			t.Fatalf("%s was replayed, which does not match", id)
		}
	}
	b.pages() // once more, with old entries among them
}

// pages measures the first page of each filter, and pages behind it.
func (b *bundle) pages() {
	b.t.Helper()
	now := time.Now()
	for _, tc := range []struct {
		name   string
		filter deadletter.Filter
	}{
		{"none", deadletter.Filter{}},
		{"reason", deadletter.Filter{Reasons: []tasks.Reason{tasks.Upstream}}},
		{"kind", deadletter.Filter{Kinds: []tasks.Kind{tasks.KindLockRelease}}},
		{"reason and kind", deadletter.Filter{Reasons: []tasks.Reason{tasks.Upstream}, Kinds: []tasks.Kind{tasks.KindDeviceUnbind}}},
		{"user", deadletter.Filter{UserID: "user-077777"}},
		{"oldest batch", deadletter.Filter{Batch: "batch-024"}},
		{"older than 1 h", deadletter.Filter{DeadBefore: now.Add(-time.Hour)}},
		{"newer than 10 min", deadletter.Filter{DeadAfter: now.Add(-10 * time.Minute)}},
		{"reason and user", deadletter.Filter{Reasons: []tasks.Reason{tasks.StillBound}, UserID: "user-012349"}},
		{"reason, nothing matches", deadletter.Filter{Reasons: []tasks.Reason{tasks.Upstream}, Batch: "none"}},
		{"reason and batch", deadletter.Filter{Reasons: []tasks.Reason{tasks.Upstream}, Batch: "batch-007"}},
	} {
		b.within()
		var took []time.Duration
		var last deadletter.Page
		var at deadletter.Position
		quiet := b.silence()
		const rounds = 100
		for i := range rounds {
			if i%2 == 0 {
				at = deadletter.Position{} // every second time the first page, and the next one in between
			}
			began := time.Now()
			page, err := deadletter.NewStore(b.rdb).Page(b.t.Context(), tc.filter, at, 50, 200*time.Millisecond)
			took = append(took, time.Since(began))
			b.must(err)
			if at.IsZero() {
				last = page
			}
			at = page.Next
		}
		silent := quiet()
		p99, longest := b.within()
		slices.Sort(took)
		p95 := took[len(took)*95/100]
		b.t.Logf("%-24s p50 %-10s p95 %-10s: %d letters, %d looked at of %d; %s; scripts: 99 %% within %s, all within %s",
			tc.name, took[len(took)/2].Round(10*time.Microsecond), p95.Round(10*time.Microsecond), len(last.Letters), last.Looked, last.Entries, silent, p99, longest)
		if p95 > 300*time.Millisecond {
			b.t.Errorf("%s: the 95th percentile is %s; want at most 300ms", tc.name, p95)
		}
		if most := 5*time.Millisecond + 4*silent.idleP99; silent.p99 > most {
			b.t.Errorf("%s: Redis is silent for %s; want at most %s", tc.name, silent.p99, most)
		}
	}
}
