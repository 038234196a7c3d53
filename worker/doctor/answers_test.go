package doctor_test

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/doctor"
)

// The key of another type is named, with what it is and what it should be.
func TestQueues_KeyOfAnotherType(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.must(b.rdb.Set(t.Context(), asynqx.PendingKey(tasks.QueueRelease), "x", 0).Err())
	f := b.run()
	for _, name := range []string{"queues.stuck", "queues.paused", "tasks.scan"} {
		f.want(name, doctor.Error, "the key asynq:{release}:pending is a string; want a list", "TYPE", "DEL")
	}
}

// A Redis that answers with an error was reached: what it says decides about the hint.
func TestRedis_AnswersWithAnError(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		spoil func(*bundle, *redis.Options)
		text  string
		hint  string
	}{
		"wrong password": {func(b *bundle, o *redis.Options) {
			b.must(b.rdb.Do(b.t.Context(), "ACL", "SETUSER", "limited", "on", ">pw", "~*", "&*", "+@all").Err())
			o.Username, o.Password = "limited", "secret-of-the-test"
		}, "WRONGPASS", "Redis refuses the user or password of --redis-url"},
		"no password": {func(b *bundle, _ *redis.Options) {
			b.must(b.rdb.ConfigSet(b.t.Context(), "requirepass", "pw").Err())
		}, "NOAUTH", "Redis wants a password"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			options := b.server.Options()
			tc.spoil(b, options)
			rdb := redis.NewClient(options)
			t.Cleanup(func() { _ = rdb.Close() })
			b.cfg.Redis = rdb
			f := b.run()
			f.want("redis.reachable", doctor.Error, "Redis answers, and refuses to serve: "+tc.text, tc.hint)
			f.want("redis.version", doctor.Skipped, "Redis refuses to serve")
			for name, all := range f.byName {
				for _, got := range all {
					if text := got.Detail + got.Hint; strings.Contains(text, "cannot be reached") || strings.Contains(text, "server runs") || strings.Contains(text, "secret-of") {
						t.Errorf("%s: %+v; want no word that Redis is not there, and no password", name, got)
					}
				}
			}
		})
	}
}

// A user who may not PING: what else is missing is told as well.
func TestRedis_MayNotPing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.must(b.rdb.Do(t.Context(), "ACL", "SETUSER", "limited", "on", ">pw", "~*", "&*", "+@all", "-ping", "-zadd").Err())
	options := b.server.Options()
	options.Username, options.Password = "limited", "pw"
	b.cfg.Redis = redis.NewClient(options)
	t.Cleanup(func() { _ = b.cfg.Redis.Close() })
	f := b.run()
	f.want("redis.reachable", doctor.Error, "Redis answers, and refuses a PING: NOPERM", "redis.permissions")
	f.want("redis.permissions", doctor.Error, "may not run PING, ZADD")
}

// Each check that a replica refuses says that it is one.
func TestRedis_ReplicaRefusesWrites(t *testing.T) {
	t.Parallel()
	b := setup(t)
	host, port, _ := strings.Cut(b.server.Addr(), ":")
	replica := redistest.Start(t, "--appendonly", "yes", "--replicaof", host+" "+port, "--repl-diskless-sync-delay", "0")
	redistest.Eventually(t, 30*time.Second, "the replica is in step", func() bool {
		return strings.Contains(replica.Client().Info(t.Context(), "replication").Val(), "master_link_status:up")
	})
	of := &bundle{t: t, server: replica, rdb: replica.Client(), cfg: doctor.Config{Redis: replica.Client()}}
	f := of.run()
	f.want("schedules.doubled", doctor.Error, "READONLY", "this Redis is a replica: name the primary, or the sentinels")
	for name, all := range f.byName {
		for _, got := range all {
			if strings.Contains(got.Hint, "that the server runs") {
				t.Errorf("%s: %+v; want no hint that it does not run", name, got)
			}
		}
	}
}

// A Redis over its limit refuses tasks now, and not soon.
func TestRedis_IsFull(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.must(b.rdb.SetRange(t.Context(), "x", 8<<20, "x").Err())
	b.must(b.rdb.ConfigSet(t.Context(), "maxmemory", "4mb").Err())
	if err := b.rdb.Set(t.Context(), "y", "y", 0).Err(); err == nil || !strings.HasPrefix(err.Error(), "OOM") {
		t.Fatalf("%v; want a Redis that refuses", err)
	}
	f := b.run()
	f.want("redis.memory", doctor.Error, "it is full: it refuses new tasks now", "maxmemory")
	for _, got := range f.byName["redis.memory"] {
		if strings.Contains(got.Detail, "soon") {
			t.Errorf("%+v; want no word of soon", got)
		}
	}
	b.must(b.rdb.ConfigSet(t.Context(), "maxmemory-policy", "volatile-lru").Err())
	b.run().want("redis.memory", doctor.Error, "it is full: it deletes keys to make room, or refuses new tasks")
}
