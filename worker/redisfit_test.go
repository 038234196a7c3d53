package worker

import (
	"maps"
	"testing"

	"github.com/kooworker/kooworker/internal/redistest"
)

func TestJudgeRedis(t *testing.T) {
	t.Parallel()
	good := map[string]string{"maxmemory_policy": "noeviction", "aof_enabled": "1", "redis_version": "7.0.15"}
	for name, tc := range map[string]struct {
		change    map[string]string
		snapshots string
		want      int
	}{
		"good":                 {nil, "", 0},
		"evicts":               {map[string]string{"maxmemory_policy": "allkeys-lru"}, "", 1},
		"volatile":             {map[string]string{"maxmemory_policy": "volatile-ttl"}, "", 1},
		"persists nothing":     {map[string]string{"aof_enabled": "0"}, "", 1},
		"snapshots":            {map[string]string{"aof_enabled": "0"}, "3600 1", 0},
		"old":                  {map[string]string{"redis_version": "6.0.16"}, "", 1},
		"just new enough":      {map[string]string{"redis_version": "6.2.0"}, "", 0},
		"two digits":           {map[string]string{"redis_version": "10.1.0"}, "", 0},
		"odd version":          {map[string]string{"redis_version": "unknown"}, "", 0},
		"says nothing":         {map[string]string{"maxmemory_policy": "", "aof_enabled": "", "redis_version": ""}, "", 0},
		"everything at a time": {map[string]string{"maxmemory_policy": "allkeys-random", "aof_enabled": "0", "redis_version": "5.0.0"}, "", 3},
	} {
		info := maps.Clone(good)
		maps.Copy(info, tc.change)
		if got := judgeRedis(info, tc.snapshots); len(got) != tc.want {
			t.Errorf("%s: %+v; want %d problems", name, got, tc.want)
		}
	}
}

func TestARealRedisIsAsked(t *testing.T) {
	t.Parallel()
	bad := redistest.Start(t, "--maxmemory-policy", "allkeys-lru")
	if got, err := redisProblems(t.Context(), bad.Client()); err != nil || len(got) != 2 {
		t.Errorf("evicting, and nothing persisted: %+v, %v", got, err)
	}
	good := redistest.Start(t, "--appendonly", "yes")
	if got, err := redisProblems(t.Context(), good.Client()); err != nil || len(got) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}
