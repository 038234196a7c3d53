package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
)

func TestRedisURLs(t *testing.T) {
	t.Parallel()
	type want struct {
		Network, Addr, User, Password string
		DB                            int
		TLS                           bool
	}
	for url, w := range map[string]want{
		"redis://127.0.0.1:6379/0":            {"tcp", "127.0.0.1:6379", "", "", 0, false},
		"redis://example.com":                 {"tcp", "example.com:6379", "", "", 0, false},
		"redis://example.com/":                {"tcp", "example.com:6379", "", "", 0, false},
		"redis://[::1]:7/1?dial_timeout=3s":   {"tcp", "[::1]:7", "", "", 1, false},
		"redis://:7?db=2":                     {"tcp", "localhost:7", "", "", 2, false},
		"redis://me:pa%40ss@example.com:1/7":  {"tcp", "example.com:1", "me", "pa@ss", 7, false},
		"rediss://:pw@example.com:6380":       {"tcp", "example.com:6380", "", "pw", 0, true},
		"redis-socket:///run/redis.sock?db=3": {"unix", "/run/redis.sock", "", "", 3, false},
		"redis-socket://:pw@/run/redis.sock":  {"unix", "/run/redis.sock", "", "pw", 0, false},
	} {
		rdb, err := redisFlags{RedisURL: url}.client(7)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		opt := rdb.(*redis.Client).Options()
		got := want{opt.Network, opt.Addr, opt.Username, opt.Password, opt.DB, opt.TLSConfig != nil}
		if diff := cmp.Diff(w, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", url, diff)
		}
		if !opt.ContextTimeoutEnabled || opt.PoolSize != 7 {
			t.Errorf("%s: honours contexts %t, pool of %d", url, opt.ContextTimeoutEnabled, opt.PoolSize)
		}
		_ = rdb.Close()
	}
}

func TestSentinelAndCluster(t *testing.T) {
	t.Parallel()
	for _, flags := range []redisFlags{
		{RedisURL: "redis-sentinel://s1,s2:26380,[::1]:1/2?master=main"},
		{RedisURL: "redis-sentinel://:pw@s1:26379?master=main&sentinel_password=x"},
		{RedisURL: "redis-sentinel://:p%40%2F%23%3Aw@s1:65535,[fe80::1%eth0],[::1]:1/0?master=main"},
		{RedisURL: "redis://x", RedisCluster: []string{"[::1]:7", " [::1]", "a.b-c_d:65535"}},
		{RedisURL: "redis://127.0.0.1:6379/0", RedisCluster: []string{"a:1", "b"}},
		{RedisURL: "rediss://me:pw@x", RedisCluster: []string{"a:1"}},
	} {
		rdb, err := flags.client(3)
		if err != nil {
			t.Errorf("%+v: %v", flags, err)
			continue
		}
		if cluster, ok := rdb.(*redis.ClusterClient); ok && (!cluster.Options().ContextTimeoutEnabled || len(cluster.Options().Addrs) == 0) {
			t.Errorf("%+v: %+v", flags, cluster.Options())
		}
		_ = rdb.Close()
	}
}

func TestRedisErrorsRepeatNothingOfWhatWasGiven(t *testing.T) {
	t.Parallel()
	const right = "percent-encode special characters in the password"
	for _, flags := range []redisFlags{
		{RedisURL: "redis://:s3cret@host:port:2/x"},
		{RedisURL: "redis://:s3cret@h/%zz"},
		{RedisURL: "redis://:s3 cret%@h/0"},
		{RedisURL: "http://:s3cret@h/0"},
		{RedisURL: "s3cret"},
		{RedisURL: ""},
		{RedisURL: "redis://:s3cret@h/one"},
		{RedisURL: "redis://:s3cret@h/-7"},
		{RedisURL: "redis://:s3cret@h/1/2"},
		{RedisURL: "redis://:s3cret@h?s3cret=1"},
		{RedisURL: "redis://:s3cret@h?db=s3cret"},
		{RedisURL: "redis://:s3cret@h?dial_timeout=s3cret"},
		// Special characters in a password end it early.
		{RedisURL: "redis://:12/s3cret@host:6379/0"},
		{RedisURL: "redis://h/s3cret@x"},
		{RedisURL: "redis://me:12/3@s3cret/0"},
		{RedisURL: "redis://:12#s3cret@host:6379/0"},
		{RedisURL: "redis://:12?s3cret@host:6379/0"},
		{RedisURL: "redis://:12?s3;cret@host:6379/0"},
		{RedisURL: "redis://:s3#cret@host:6379/0"},
		{RedisURL: "redis://s3cret:0/0"},
		{RedisURL: "redis://s3cret:65536/0"},
		{RedisURL: "redis-socket://:s3cret@host/path?db=x"},
		{RedisURL: "redis-socket://:s3cret@"},
		{RedisURL: "redis-socket://:s3cret@/path?db=x"},
		{RedisURL: "redis-socket://:12/s3cret@/path"},
		{RedisURL: "redis-socket://:s3%cret@/path"},
		{RedisURL: "redis-sentinel://:s3cret@h1,h2"},
		{RedisURL: "redis-sentinel://:s3cret@h1,,h2?master=m"},
		{RedisURL: "redis-sentinel://:s3cret@h1/x?master=m"},
		{RedisURL: "redis-sentinel://:s3%cret@h1?master=m"},
		{RedisURL: "redis-sentinel://:s3:cret:x,h?master=m"},
		{RedisURL: "redis-sentinel://:s3cret,h?master=m"},
		{RedisURL: "redis-sentinel://:12/s3cret@h?master=m"},
		{RedisURL: "redis-sentinel://:12?s3cret@h&master=m"},
		{RedisURL: "redis-sentinel://:12#s3cret@h?master=m"},
		{RedisURL: "redis-sentinel://me:12/3@s3cret,h/0?master=m"},
		{RedisURL: "redis-sentinel://s3cret:0?master=m"},
		{RedisURL: "redis-sentinel://s3cret:70000,h?master=m"},
		{RedisURL: "redis-sentinel://s3cret:?master=m"},
		{RedisURL: "redis-sentinel://[s3cret]?master=m"},
		{RedisURL: "redis-sentinel://::1?master=m"},
	} {
		refuses(t, flags, right)
	}
	for _, flags := range []redisFlags{
		{RedisURL: "redis://:s3cret@h/3", RedisCluster: []string{"a"}},
		{RedisURL: "redis://:s3cret@h", RedisCluster: []string{""}},
		{RedisURL: "redis://h", RedisCluster: []string{"a", "redis://:s3cret@host"}},
		{RedisURL: "redis://h", RedisCluster: []string{"rediss://s3cret:6379"}},
		{RedisURL: "redis://h", RedisCluster: []string{"redis://s3cret"}},
		{RedisURL: "redis://h", RedisCluster: []string{":s3cret@host"}},
		{RedisURL: "redis://h", RedisCluster: []string{":s3cret@host:6379"}},
		{RedisURL: "redis://h", RedisCluster: []string{"me@s3cret"}},
		{RedisURL: "redis://h", RedisCluster: []string{"s3cret/0"}},
		{RedisURL: "redis://h", RedisCluster: []string{"h:s3cret"}},
		{RedisURL: "redis://h", RedisCluster: []string{"s3cret:0"}},
		{RedisURL: "redis://h", RedisCluster: []string{"s3cret:65536"}},
		{RedisURL: "redis://h", RedisCluster: []string{"s3cret:-1"}},
		{RedisURL: "redis://h", RedisCluster: []string{"s3cret:+1"}},
		{RedisURL: "redis://h", RedisCluster: []string{"s3 cret"}},
	} {
		refuses(t, flags, "--redis-cluster: ")
	}
	for _, url := range []string{"redis://:12/s3cret@host:6379/0", "redis-sentinel://:s3cret@h?master=m", "redis-socket:///s3cret", "redis://:s3cret@h:0"} {
		refuses(t, redisFlags{RedisURL: url, RedisCluster: []string{"a:1"}}, "--redis-url: ")
	}
}

// refuses: the flags are wrong usage, which is explained without their values.
func refuses(t *testing.T, flags redisFlags, want string) {
	t.Helper()
	rdb, err := flags.client(1)
	if err == nil {
		_ = rdb.Close()
		t.Errorf("%+v: accepted", flags)
		return
	}
	if _, usage := errors.AsType[usageError](err); !usage || !strings.Contains(err.Error(), want) {
		t.Errorf("%+v: %v; want a usage error with %q", flags, err, want)
	}
	for _, part := range []string{"s3", "cret", "12", "7"} {
		if strings.Contains(err.Error(), part) {
			t.Errorf("%+v: repeats %q: %v", flags, part, err)
		}
	}
}

func TestNoPasswordOfRedisReachesStderr(t *testing.T) {
	for _, env := range []map[string]string{
		{"REDIS_URL": "redis://:12/s3cret@host:6379/0"},
		{"REDIS_URL": "redis://h/s3cret@x"},
		{"REDIS_URL": "redis-sentinel://:s3:cret:x,h?master=m"},
		{"REDIS_CLUSTER_NODES": "redis://:s3cret@host"},
	} {
		t.Run("", func(t *testing.T) {
			for name, value := range env {
				t.Setenv(name, value)
			}
			r := kooworker(t, "", "dead", "stats")
			if r.code != exitUsage || strings.Contains(r.stderr, "s3") || strings.Contains(r.stderr, "cret") {
				t.Errorf("%v: %+v", env, r)
			}
		})
	}
}
