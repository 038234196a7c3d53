package main

import (
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

func TestRedisErrorsKeepThePassword(t *testing.T) {
	t.Parallel()
	for _, flags := range []redisFlags{
		{RedisURL: "redis://:geheim@host:port:2/x"},
		{RedisURL: "redis://:geheim@h/%zz"},
		{RedisURL: "redis://:geh eim%@h/0"},
		{RedisURL: "http://:geheim@h/0"},
		{RedisURL: "redis://:geheim@h/one"},
		{RedisURL: "redis-socket://:geheim@host/path?db=x"},
		{RedisURL: "redis-socket://:geheim@"},
		{RedisURL: "redis-socket://:geheim@/path?db=x"},
		{RedisURL: "redis-sentinel://:geheim@h1,h2"},
		{RedisURL: "redis-sentinel://:geheim@h1,,h2?master=m"},
		{RedisURL: "redis-sentinel://:geheim@h1/x?master=m"},
		{RedisURL: "redis-sentinel://:geh%eim@h1?master=m"},
		{RedisURL: "redis://:geheim@h/3", RedisCluster: []string{"a"}},
		{RedisURL: "redis://:geheim@h", RedisCluster: []string{""}},
	} {
		rdb, err := flags.client(1)
		if err == nil {
			_ = rdb.Close()
			t.Errorf("%s: accepted", flags.RedisURL)
			continue
		}
		if strings.Contains(err.Error(), "geh") {
			t.Errorf("%s: shows the password: %v", flags.RedisURL, err)
		}
	}
}
