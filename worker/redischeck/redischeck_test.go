package redischeck

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/kooworker/kooworker/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEvaluate(t *testing.T) {
	t.Parallel()
	good := map[string]string{"maxmemory_policy": "noeviction", "aof_enabled": "1", "redis_version": "7.0.15"}
	for name, tc := range map[string]struct {
		change    map[string]string
		snapshots string
		want      int
	}{
		"good":                    {nil, "", 0},
		"evicts":                  {map[string]string{"maxmemory_policy": "allkeys-lru"}, "", 1},
		"volatile":                {map[string]string{"maxmemory_policy": "volatile-ttl"}, "", 1},
		"persists nothing":        {map[string]string{"aof_enabled": "0"}, "", 1},
		"snapshots":               {map[string]string{"aof_enabled": "0"}, "3600 1", 0},
		"a full disk":             {map[string]string{"aof_last_write_status": "err", "rdb_last_bgsave_status": "ok"}, "", 1},
		"no snapshot":             {map[string]string{"aof_enabled": "0", "rdb_last_bgsave_status": "err"}, "3600 1", 1},
		"snapshots do not matter": {map[string]string{"rdb_last_bgsave_status": "err"}, "3600 1", 0},
		"old":                     {map[string]string{"redis_version": "6.0.16"}, "", 1},
		"just new enough":         {map[string]string{"redis_version": "6.2.0"}, "", 0},
		"two digits":              {map[string]string{"redis_version": "10.1.0"}, "", 0},
		"odd version":             {map[string]string{"redis_version": "unknown"}, "", 0},
		"says nothing":            {map[string]string{"maxmemory_policy": "", "aof_enabled": "", "redis_version": ""}, "", 0},
		"everything at a time":    {map[string]string{"maxmemory_policy": "allkeys-random", "aof_enabled": "0", "redis_version": "5.0.0"}, "", 3},
	} {
		info := maps.Clone(good)
		maps.Copy(info, tc.change)
		if got := evaluate(info, tc.snapshots); len(got) != tc.want {
			t.Errorf("%s: %+v; want %d problems", name, got, tc.want)
		}
	}
}

// A user without the permission leaves it unknown whether Redis is fit: that is
// refused if somebody wants to be sure, and logged if not.
func TestCheck_WithoutPermission(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		args               []string
		denied             string
		wantText, wantHint string
	}{
		"INFO":   {[]string{"--appendonly", "yes"}, "-info", "NOPERM", "+info"},
		"CONFIG": {nil, "-config", "config", "+config|get"},
	} {
		server := redistest.Start(t, tc.args...)
		if err := server.Client().Do(t.Context(), "ACL", "SETUSER", "limited", "on", ">pw", "~*", "&*", "+@all", tc.denied).Err(); err != nil {
			t.Fatal(err)
		}
		limited := redis.NewClient(&redis.Options{Addr: server.Addr(), Username: "limited", Password: "pw"})
		t.Cleanup(func() { _ = limited.Close() })
		unknown, ok := errors.AsType[*Error](Check(t.Context(), limited, true, zap.NewNop()))
		if !ok || !strings.Contains(unknown.Error(), tc.wantText) || !strings.Contains(unknown.Hint(), tc.wantHint) {
			t.Errorf("%s, strict: %v; want an *Error with %q, and the hint %q", name, unknown, tc.wantText, tc.wantHint)
		}
		core, logs := observer.New(zapcore.WarnLevel)
		if err := Check(t.Context(), limited, false, zap.New(core)); err != nil || logs.Len() != 1 || logs.All()[0].Level != zapcore.WarnLevel {
			t.Errorf("%s, not strict: %v, %+v; want no error and one warning", name, err, logs.All())
		}
	}
}

func TestCheck_RealRedis(t *testing.T) {
	t.Parallel()
	bad := redistest.Start(t, "--maxmemory-policy", "allkeys-lru").Client()
	if got, err := Find(t.Context(), bad); err != nil || len(got) != 2 {
		t.Errorf("a Redis that evicts and persists nothing: %+v, %v; want two problems", got, err)
	}
	core, logs := observer.New(zapcore.ErrorLevel)
	if err := Check(t.Context(), bad, false, zap.New(core)); err != nil || logs.Len() != 2 {
		t.Errorf("not strict: %v, %d lines in the log; want no error and two lines", err, logs.Len())
	}
	if unfit, ok := errors.AsType[*Error](Check(t.Context(), bad, true, zap.NewNop())); !ok || unfit.Hint() != "set maxmemory-policy noeviction; set appendonly yes" {
		t.Errorf("strict: %v; want an *Error with both hints", unfit)
	}
	good := redistest.Start(t, "--appendonly", "yes").Client()
	if got, err := Find(t.Context(), good); err != nil || len(got) != 0 {
		t.Errorf("a Redis that is fit: %+v, %v; want no problems", got, err)
	}
	if err := Check(t.Context(), good, true, zap.NewNop()); err != nil {
		t.Errorf("strict: %v; want no error", err)
	}
}
