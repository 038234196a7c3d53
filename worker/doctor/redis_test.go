package doctor_test

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx/wrongclock"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/worker/doctor"
	"github.com/kooworker/kooworker/worker/fleet"
)

func TestRun_AllIsWell(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.aWorker("w", fleet.Report{Host: "w", Version: "v1"})
	f := b.run()
	f.wantOnly("redis.latency") // of a busy machine
	f.want("redis.version", doctor.OK, "version")
	f.want("redis.replication", doctor.OK, "primary without replicas")
	f.want("redis.permissions", doctor.OK, "may run all")
	f.want("koodrive.url", doctor.Skipped, "--koodrive-url")
	f.want("workers.settings", doctor.OK, "v1")
}

func TestRedis_PersistenceAndMemory(t *testing.T) {
	t.Parallel()
	snapshots := setup(t, "--appendonly", "no", "--save", "3600 1")
	f := snapshots.run()
	f.want("redis.persistence", doctor.Warning, "snapshots only", "CONFIG SET appendonly yes")

	full := setup(t, "--appendonly", "no", "--maxmemory", "64mb", "--maxmemory-policy", "volatile-lru")
	full.must(full.rdb.SetRange(t.Context(), "x", 60<<20, "x").Err())
	f = full.run()
	f.want("redis.persistence", doctor.Error, "nothing is persisted")
	f.want("redis.eviction", doctor.Error, "volatile-lru", "noeviction")
	f.want("redis.memory", doctor.Error, "of 64 MiB", "maxmemory")
}

// A replica takes no tasks; and a primary tells of a replica that is not in step.
func TestRedis_Replication(t *testing.T) {
	t.Parallel()
	b := setup(t)
	host, port, _ := strings.Cut(b.server.Addr(), ":")
	replica := redistest.Start(t, "--appendonly", "yes", "--replicaof", host+" "+port, "--repl-diskless-sync-delay", "0")
	redistest.Eventually(t, 30*time.Second, "the replica is in step", func() bool {
		return strings.Contains(replica.Client().Info(t.Context(), "replication").Val(), "master_link_status:up") &&
			strings.Contains(b.rdb.Info(t.Context(), "replication").Val(), "state=online")
	})
	b.run().want("redis.replication", doctor.OK, "primary with 1 replica in step")
	of := &bundle{t: t, server: replica, rdb: replica.Client(), cfg: doctor.Config{Redis: replica.Client()}}
	of.run().want("redis.replication", doctor.Error, "this Redis is a slave", "name the primary")

	b.must(b.rdb.ConfigSet(t.Context(), "min-replicas-to-write", "1").Err())
	replica.Kill()
	redistest.Eventually(t, 30*time.Second, "the replica is gone", func() bool {
		return strings.Contains(b.rdb.Info(t.Context(), "replication").Val(), "min_slaves_good_slaves:0")
	})
	b.run().want("redis.replication", doctor.Error, "it refuses writes", "min-replicas-to-write")
}

func TestRedis_Permissions(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		rules        []any
		status       doctor.Status
		check, wants string
	}{
		"a command":    {[]any{"~*", "&*", "+@all", "-zadd", "-lpos"}, doctor.Error, "redis.permissions", "may not run LPOS, ZADD"},
		"keys":         {[]any{"~asynq:*", "~kooworker:*", "&*", "+@all"}, doctor.Error, "redis.permissions", "~{kooworker:*"},
		"scripts":      {[]any{"~*", "&*", "+@all", "-eval", "-evalsha"}, doctor.Error, "redis.permissions", "does not allow scripts"},
		"the slow log": {[]any{"~*", "&*", "+@all", "-slowlog"}, doctor.OK, "redis.latency", "+slowlog"},
		"INFO":         {[]any{"~*", "&*", "+@all", "-info"}, doctor.Warning, "redis.memory", "info"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.must(b.rdb.Do(t.Context(), append([]any{"ACL", "SETUSER", "limited", "on", ">pw"}, tc.rules...)...).Err())
			options := b.server.Options()
			options.Username, options.Password = "limited", "pw"
			limited := redis.NewClient(options)
			t.Cleanup(func() { _ = limited.Close() })
			b.cfg.Redis = limited
			b.run().want(tc.check, tc.status, tc.wants)
		})
	}
}

// The clock of this machine is compared with Redis' clock.
func TestRedis_ClockIsWrong(t *testing.T) {
	t.Parallel()
	b := setup(t)
	rdb := b.server.Client()
	rdb.AddHook(wrongclock.New(10 * time.Minute))
	b.cfg.Redis = rdb
	b.run().want("redis.clock", doctor.Error, "of Redis' clock", "NTP")
}

// A Redis that hangs in the middle does not hang the doctor: what is left is skipped.
func TestRedis_Hangs(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.server.Freeze()
	began := time.Now()
	f := b.run()
	b.server.Thaw()
	f.want("redis.reachable", doctor.Error, "cannot be reached", "--redis-url")
	f.want("tasks.orphans", doctor.Skipped, "Redis cannot be reached")
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %s; want some seconds", took)
	}
}

// A slow script is told, and no argument of it.
func TestRedis_SlowScript(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.must(b.rdb.Eval(t.Context(), `local t = redis.call("TIME"); local till = t[1] * 1000000 + t[2] + 150000
repeat t = redis.call("TIME") until t[1] * 1000000 + t[2] > till return "u-secret"`, nil).Err())
	f := b.run()
	f.want("redis.latency", doctor.Warning, "the slowest, EVAL", "SLOWLOG GET")
	if text := f.byName["redis.latency"]; strings.Contains(text[len(text)-1].Detail, "secret") {
		t.Errorf("%+v; want no argument", text)
	}
}

// Each master of a cluster is looked at.
func TestRedis_Cluster(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, false, "--appendonly", "yes")
	bad := cluster.Masters[1].Client()
	if err := bad.ConfigSet(t.Context(), "maxmemory-policy", "allkeys-lru").Err(); err != nil {
		t.Fatal(err)
	}
	b := &bundle{t: t, rdb: bad, cfg: doctor.Config{Redis: cluster.Client()}}
	f := b.run()
	f.want("redis.reachable", doctor.OK, "all 3 masters")
	f.want("redis.eviction", doctor.Error, cluster.Masters[1].Addr())
	f.wantOnly("redis.eviction", "redis.latency", "workers.alive")
	cluster.Masters[2].Kill()
	b.run().want("redis.reachable", doctor.Error, "cannot be reached")
}
