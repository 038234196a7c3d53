package recovery_test

import (
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/recovery"
)

// setupCluster returns a bundle over a cluster of three masters. Releases are on another of
// them than unbinds, the lock and the list of servers.
func setupCluster(t *testing.T) (*bundle, *redistest.Cluster, *redis.ClusterClient) {
	t.Helper()
	b := setup(t)
	c := redistest.StartCluster(t, 3, false, "--cluster-node-timeout", "60000")
	rdb := c.Client()
	asynqx.GuardNodes(rdb)
	b.client, b.inspector = asynq.NewClientFromRedisClient(rdb), asynq.NewInspectorFromRedisClient(rdb)
	b.cfg.Redis = rdb
	return b, c, rdb
}

// A master that hangs holds up the repair of its queues, and of no others.
func TestRepairer_OneMasterHangs(t *testing.T) {
	t.Parallel()
	b, c, _ := setupCluster(t)
	for _, queue := range []string{tasks.QueueRelease, unbind} {
		b.enqueue(queue, "of-"+queue)
		b.must(b.inspector.ArchiveTask(queue, "of-"+queue))
	}
	r := b.repairer()
	bad := c.MasterOf(asynqx.PendingKey(tasks.QueueRelease))
	bad.Freeze()
	var err error
	redistest.Eventually(t, 20*time.Second, "the task of the other queue is collected", func() bool {
		err = r.Pass(t.Context())
		return len(b.parker.ids()) == 1
	})
	if !asynqx.IsUnavailable(err) {
		t.Errorf("the pass returns %v; want an error that tells of the master", err)
	}
	bad.Thaw()
	redistest.Eventually(t, 20*time.Second, "the task of its queue is collected", func() bool {
		return r.Pass(t.Context()) == nil && len(b.parker.ids()) == 2
	})
}

// After an outage of a queue's master its leases have expired, whoever lives. So its tasks
// are left alone for MinUptime, although the master with the lock has answered all along.
func TestReap_OutageOfOneMaster(t *testing.T) {
	t.Parallel()
	b, c, rdb := setupCluster(t)
	const uptime = 4 * time.Second
	b.cfg.MinUptime = uptime
	b.enqueue(tasks.QueueRelease, "x")
	b.must(rdb.LMove(t.Context(), key(tasks.QueueRelease, "pending"), key(tasks.QueueRelease, "active"), "RIGHT", "LEFT").Err())
	b.must(rdb.HSet(t.Context(), key(tasks.QueueRelease, "t:x"), "state", "active").Err())
	b.must(rdb.ZAdd(t.Context(), key(tasks.QueueRelease, "lease"), redis.Z{Score: float64(time.Now().Add(6 * time.Second).Unix()), Member: "x"}).Err())
	r := b.repairer()
	passes := func(d time.Duration) {
		for began := time.Now(); time.Since(began) < d; {
			_ = r.Pass(t.Context()) // it tells of the master that is away
			<-time.After(200 * time.Millisecond)
		}
	}
	passes(time.Second)
	bad := c.MasterOf(asynqx.PendingKey(tasks.QueueRelease))
	bad.Freeze()
	passes(10 * time.Second)
	bad.Thaw()
	thawed := time.Now()
	redistest.Eventually(t, 30*time.Second, "the task is put back", func() bool {
		_ = r.Pass(t.Context())
		return b.counts.of(recovery.Requeued) == 1
	})
	if after := time.Since(thawed); after < uptime-time.Second {
		t.Errorf("put back %s after the outage; want at least %s", after, uptime-time.Second)
	}
}
