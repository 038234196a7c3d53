package recovery_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/worker/recovery"
)

const lock = "{kooworker:recovery}:lock"

func TestLock_ReleasedAndTakenOver(t *testing.T) {
	t.Parallel()
	b := setup(t)
	holder := func() string { return b.rdb.Get(t.Context(), lock).Val() }
	stop := b.run()
	redistest.Eventually(t, 5*time.Second, "a holder", func() bool { return holder() != "" })
	first := holder()
	stop()
	if got := holder(); got != "" {
		t.Errorf("after the stop the lock is held by %s; want it free", got)
	}
	// A holder that dies does not release the lock. Another one takes over soon.
	b.must(b.rdb.Set(t.Context(), lock, "a dead holder", 5*time.Second).Err())
	b.run()
	b.run()
	redistest.Eventually(t, 8*time.Second, "another holder", func() bool { h := holder(); return h != "" && h != "a dead holder" })
	if holder() == first {
		t.Error("two repairers have the same token; want one each")
	}
}

// TestLock_OnlyTheHolderActs leaves an expired task alone while another holds the
// lock.
func TestLock_OnlyTheHolderActs(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.enqueue(unbind, "x")
	b.take(unbind, "x", ago(time.Minute))
	b.must(b.rdb.Set(t.Context(), lock, "another", time.Minute).Err())
	b.passes(5)
	b.wantAt(unbind, "x", "active", "lease", "hash")
	b.want(map[recovery.Repair]int{})
	if got := b.rdb.Get(t.Context(), lock).Val(); got != "another" {
		t.Errorf("the lock is held by %q; want another", got)
	}
}

// commands is a hook that counts commands.
type commands struct{ n atomic.Int64 }

func (c *commands) DialHook(next redis.DialHook) redis.DialHook { return next }
func (c *commands) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (c *commands) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.n.Add(1)
		return next(ctx, cmd)
	}
}

func TestRun_OutageIsLoggedOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	core, logs := observer.New(zap.DebugLevel)
	b.cfg.Logger = zap.New(core)
	rdb, count := b.redis.Client(), &commands{}
	rdb.AddHook(count)
	b.cfg.Redis = rdb
	b.run()
	redistest.Eventually(t, 5*time.Second, "the queues to be registered", func() bool { return b.counts.of(recovery.Registered) == 3 })
	b.redis.Kill()
	redistest.Eventually(t, 10*time.Second, "a failure", func() bool { return logs.FilterMessageSnippet("cannot repair").Len() > 0 })
	before := count.n.Load()
	<-time.After(5 * time.Second) // of the outage, in which commands are counted
	if tried := count.n.Load() - before; tried > 12 {
		t.Errorf("%d commands in 5 s without Redis; want 12 at most", tried)
	}
	b.redis.Restart() // without persistence: the queues are forgotten
	redistest.Eventually(t, 10*time.Second, "the queues registered again", func() bool { return b.counts.of(recovery.Registered) == 6 })
	if n := logs.FilterMessageSnippet("cannot repair").Len(); n != 1 {
		t.Errorf("%d lines about the outage; want 1", n)
	}
	redistest.Eventually(t, 5*time.Second, "a line about its end", func() bool { return logs.FilterMessageSnippet("repairs go on").Len() == 1 })
}

// TestPass_FullRedisIsAnOutage fills Redis, which then refuses to renew the lock as
// it refuses the workers' heartbeats.
func TestPass_FullRedisIsAnOutage(t *testing.T) {
	t.Parallel()
	b := setup(t)
	r := b.repairer()
	b.must(r.Pass(t.Context()))
	b.must(b.rdb.ConfigSet(t.Context(), "maxmemory", "1").Err())
	if err := r.Pass(t.Context()); !redis.HasErrorPrefix(err, "OOM") {
		t.Errorf("a pass over a full Redis: %v; want OOM", err)
	}
	b.must(b.rdb.ConfigSet(t.Context(), "maxmemory", "0").Err())
	b.must(r.Pass(t.Context()))
}
