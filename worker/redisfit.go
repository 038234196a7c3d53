package worker

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

// unfit is one way in which a Redis is not what a queue needs.
type unfit struct {
	problem string
	hint    string
}

// UnfitRedisError means that Redis would lose tasks by the way it is set up,
// and that Config.StrictRedis forbids to go on.
type UnfitRedisError struct {
	problems []unfit
}

// Error implements error.
func (e *UnfitRedisError) Error() string {
	var parts []string
	for _, u := range e.problems {
		parts = append(parts, u.problem)
	}
	return "this Redis is not fit for a queue: " + strings.Join(parts, "; ")
}

// Hint says what to do about it.
func (e *UnfitRedisError) Hint() string {
	var parts []string
	for _, u := range e.problems {
		parts = append(parts, u.hint)
	}
	return strings.Join(parts, "; ")
}

// checkRedis looks whether Redis can be trusted with a queue, and says so
// loudly where it cannot; with StrictRedis that is an error.
func (w *Worker) checkRedis(ctx context.Context) error {
	problems, err := redisProblems(ctx, w.rdb)
	if err != nil {
		w.log.Warn("Redis does not say how it is set up", zap.Error(err))
		return nil
	}
	if len(problems) > 0 && w.cfg.StrictRedis {
		return &UnfitRedisError{problems}
	}
	for _, u := range problems {
		w.log.Error("this Redis is not fit for a queue", zap.String("problem", u.problem), zap.String("hint", u.hint))
	}
	return nil
}

// redisProblems asks a server, or every primary of a cluster.
func redisProblems(ctx context.Context, rdb redis.UniversalClient) ([]unfit, error) {
	cluster, ok := rdb.(*redis.ClusterClient)
	if !ok {
		return serverProblems(ctx, rdb)
	}
	results := make(chan []unfit, 1)
	results <- nil
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
		problems, err := serverProblems(ctx, node)
		for i := range problems {
			problems[i].problem = node.Options().Addr + ": " + problems[i].problem
		}
		results <- append(<-results, problems...)
		return err
	})
	return <-results, err
}

// serverProblems reads INFO, which managed services answer as well, and CONFIG
// only for what INFO does not tell.
func serverProblems(ctx context.Context, rdb redis.Cmdable) ([]unfit, error) {
	info := map[string]string{}
	for _, section := range []string{"server", "memory", "persistence"} {
		text, err := rdb.Info(ctx, section).Result()
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(text) {
			if key, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
				info[key] = value
			}
		}
	}
	snapshots := ""
	if settings, err := rdb.ConfigGet(ctx, "save").Result(); err == nil {
		snapshots = settings["save"]
	}
	return judgeRedis(info, snapshots), nil
}

// judgeRedis says what is wrong. What a server does not tell is not held
// against it.
func judgeRedis(info map[string]string, snapshots string) []unfit {
	var out []unfit
	if policy := info["maxmemory_policy"]; policy != "" && policy != "noeviction" {
		out = append(out, unfit{
			fmt.Sprintf("maxmemory-policy is %s: when memory is short, tasks and leases disappear", policy),
			"set maxmemory-policy noeviction",
		})
	}
	if info["aof_enabled"] == "0" && snapshots == "" {
		out = append(out, unfit{
			"nothing is persisted: a restart forgets every task",
			"set appendonly yes",
		})
	}
	if version := info["redis_version"]; version != "" && olderThan(version, 6, 2) {
		out = append(out, unfit{
			fmt.Sprintf("version %s is too old", version),
			"want Redis 6.2 or newer",
		})
	}
	return out
}

func olderThan(version string, major, minor int) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return false
	}
	gotMajor, errMajor := strconv.Atoi(parts[0])
	gotMinor, errMinor := strconv.Atoi(parts[1])
	if errMajor != nil || errMinor != nil {
		return false
	}
	return gotMajor < major || gotMajor == major && gotMinor < minor
}
