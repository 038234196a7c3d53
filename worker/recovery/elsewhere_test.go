package recovery_test

import (
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/worker/recovery"
)

// TestRepairer_Cluster repairs through a cluster client: a script whose keys are in
// two slots, or a scan of the wrong node, would fail.
func TestRepairer_Cluster(t *testing.T) {
	t.Parallel()
	b := setup(t, "--cluster-enabled", "yes")
	b.must(b.rdb.Do(t.Context(), "CLUSTER", "ADDSLOTSRANGE", 0, 16383).Err())
	redistest.Eventually(t, 10*time.Second, "a cluster of one", func() bool {
		return strings.Contains(b.rdb.ClusterInfo(t.Context()).Val(), "cluster_state:ok")
	})
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{b.redis.Addr()}, ContextTimeoutEnabled: true})
	t.Cleanup(func() { _ = cluster.Close() })
	b.cfg.Redis = cluster
	want := b.damage(10)
	b.passes(16)
	b.wantPlaced(want)
}

// TestRepairer_Miniredis repairs in the miniredis that the demo uses where there is
// no redis-server. It lacks some of Redis' commands and Lua.
func TestRepairer_Miniredis(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.rdb = redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	t.Cleanup(func() { _ = b.rdb.Close() })
	b.client, b.inspector = asynq.NewClientFromRedisClient(b.rdb), asynq.NewInspectorFromRedisClient(b.rdb)
	b.cfg.Redis = b.rdb
	want := b.damage(10)
	b.passes(16)
	b.wantPlaced(want)
	if n := b.counts.of(recovery.Restored); n != 10 {
		t.Errorf("%d restored; want 10", n)
	}
}
