package recovery_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/worker/recovery"
)

// fill makes n pending tasks in a queue, all with the message of one.
func (b *bundle) fill(queue string, n int) {
	b.t.Helper()
	b.enqueue(queue, "template")
	msg := b.rdb.HGet(b.t.Context(), key(queue, "t:template"), "msg").Val()
	for chunk := range slices.Chunk(ids(n), 1000) {
		_, err := b.rdb.Pipelined(b.t.Context(), func(p redis.Pipeliner) error {
			for _, id := range chunk {
				p.HSet(b.t.Context(), key(queue, "t:"+id), "msg", renamed(msg, "template", id), "state", "pending", "pending_since", "1")
				p.LPush(b.t.Context(), key(queue, "pending"), id)
			}
			return nil
		})
		b.must(err)
	}
}

// strand takes a task out of all sets.
func (b *bundle) strand(queue, id string) {
	b.t.Helper()
	b.enqueue(queue, id)
	b.must(b.rdb.LRem(b.t.Context(), key(queue, "pending"), 0, id).Err())
	b.must(b.rdb.HSet(b.t.Context(), key(queue, "t:"+id), "state", "retry").Err())
}

// TestScan_FindsStrandedTasksInSeconds strands a task in each queue, among 12,000
// others. A repairer makes a pass a second, and reads at least a page of 500 keys in
// each, however busy the machine is.
func TestScan_FindsStrandedTasksInSeconds(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.fill(unbind, 12_000)
	for _, queue := range b.cfg.Queues {
		b.strand(queue, "x")
	}
	r, passes := b.repairer(), 0
	for b.counts.of(recovery.Restored) < len(b.cfg.Queues) {
		if passes++; passes > 30 {
			t.Fatalf("%d tasks are restored after 30 passes; want one in each of %d queues", b.counts.of(recovery.Restored), len(b.cfg.Queues))
		}
		b.must(r.Pass(t.Context()))
	}
	t.Logf("restored after %d passes", passes)
}

// TestScan_PageByPage has more tasks than a pass may read in its share of the time: it
// leaves Redis to others in between.
func TestScan_PageByPage(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.Interval = 100 * time.Millisecond
	const tasks, page = 50_000, 500
	b.fill(unbind, tasks)
	r := b.repairer()
	b.must(r.Pass(t.Context())) // loads the scripts
	b.must(b.rdb.ConfigResetStat(t.Context()).Err())
	b.must(r.Pass(t.Context()))
	_, stats, _ := strings.Cut(b.rdb.Info(t.Context(), "commandstats").Val(), "cmdstat_scan:calls=")
	pages, _ := strconv.Atoi(stats[:max(strings.IndexByte(stats, ','), 0)])
	t.Logf("a pass reads %d pages in %s", pages, b.cfg.Interval/50)
	if pages < 1 || pages > tasks/page/2 {
		t.Errorf("a pass reads %d pages of %d; want some", pages, tasks/page)
	}
}

// TestScan_BrokenQueueStopsNoOther has a queue whose keys no script can read.
func TestScan_BrokenQueueStopsNoOther(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.strand(dead, "x")
	b.strand(unbind, "x")
	for _, name := range []string{"lease", "pending", "retry", "scheduled"} {
		b.must(b.rdb.Del(t.Context(), key(dead, name)).Err())
		b.must(b.rdb.Set(t.Context(), key(dead, name), "x", 0).Err())
	}
	b.must(b.rdb.ZAdd(t.Context(), key(unbind, "scheduled"), redis.Z{Score: float64(ago(-time.Hour).Unix()), Member: "no message"}).Err())
	r := b.repairer()
	for range 20 {
		if err := r.Pass(t.Context()); err == nil {
			t.Fatal("a pass over a broken queue returns nil; want an error")
		}
	}
	b.wantAt(unbind, "x", "pending", "hash")
	b.wantAt(unbind, "no message")
}

// TestScan_EveryMasterOfACluster has the queues on two masters.
func TestScan_EveryMasterOfACluster(t *testing.T) {
	t.Parallel()
	b := setup(t, "--cluster-enabled", "yes")
	other := redistest.Start(t, "--cluster-enabled", "yes")
	b.must(b.rdb.Do(t.Context(), "CLUSTER", "ADDSLOTSRANGE", 0, 8191).Err())
	b.must(other.Client().Do(t.Context(), "CLUSTER", "ADDSLOTSRANGE", 8192, 16383).Err())
	host, port, _ := strings.Cut(other.Addr(), ":")
	b.must(b.rdb.ClusterMeet(t.Context(), host, port).Err())
	for _, rdb := range []*redis.Client{b.rdb, other.Client()} {
		redistest.Eventually(t, 30*time.Second, "a cluster of two", func() bool {
			info := rdb.ClusterInfo(t.Context()).Val()
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_size:2")
		})
	}
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{b.redis.Addr(), other.Addr()}, ContextTimeoutEnabled: true})
	t.Cleanup(func() { _ = cluster.Close() })
	b.cfg.Redis, b.cfg.Queues = cluster, []string{"a", "b", "c", "d", unbind}
	masters := map[string]bool{}
	client := asynq.NewClientFromRedisClient(cluster)
	for _, queue := range b.cfg.Queues {
		if _, err := client.Enqueue(asynq.NewTask("k", nil), asynq.TaskID("x"), asynq.Queue(queue)); err != nil {
			t.Fatal(err)
		}
		b.must(cluster.Del(t.Context(), key(queue, "pending")).Err())
		b.must(cluster.HSet(t.Context(), key(queue, "t:x"), "state", "retry").Err())
		node, err := cluster.MasterForKey(t.Context(), key(queue, "t:x"))
		b.must(err)
		masters[node.Options().Addr] = true
	}
	if len(masters) != 2 {
		t.Fatalf("the queues are on %d masters; want two", len(masters))
	}
	b.passes(20)
	if n := b.counts.of(recovery.Restored); n != len(b.cfg.Queues) {
		t.Errorf("%d tasks are restored; want one in each of %d queues", n, len(b.cfg.Queues))
	}
}
