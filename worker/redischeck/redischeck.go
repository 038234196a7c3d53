// Package redischeck finds out whether a Redis can be trusted with a queue: it
// must not evict keys, must persist what it holds, and must not be too old.
//
// Package worker calls it once at the start, and package overview now and then. It asks Redis through any client, a
// cluster's included, writes nothing, and owns no keys. It imports nothing of this
// module, and must not import asynq.
package redischeck

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

// pingTimeout bounds a ping, so that /readyz answers soon even if Redis hangs.
const pingTimeout = 2 * time.Second

// Ping returns an error if Redis does not answer within 2 s.
func Ping(ctx context.Context, rdb redis.UniversalClient) error {
	ctx, cancel := context.WithTimeoutCause(ctx, pingTimeout, errors.New("no answer within "+pingTimeout.String()))
	defer cancel()
	if err := rdb.Ping(ctx).Err(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	return nil
}

// Problem is one way in which a Redis is not fit for a queue.
type Problem struct {
	// Name is one of Names. It serves as metric label.
	Name string `json:"name"`
	Text string `json:"text"`
	Hint string `json:"hint"`
}

// The names of problems.
const (
	Eviction    = "eviction"    // keys disappear when memory is short
	Persistence = "persistence" // nothing is persisted, or Redis fails to
	Version     = "version"     // too old
	unknown     = "unknown"     // it does not tell
)

// Names lists the names of the problems that Find can find.
func Names() []string { return []string{Eviction, Persistence, Version} }

// Error means that Redis would lose tasks because of its configuration or its
// version, or that it does not tell them.
type Error struct {
	problems []Problem
}

// Error implements error.
func (e *Error) Error() string {
	var parts []string
	for _, p := range e.problems {
		parts = append(parts, p.Text)
	}
	return "this Redis is not fit for a queue: " + strings.Join(parts, "; ")
}

// Hint says what to do about it.
func (e *Error) Hint() string {
	var parts []string
	for _, p := range e.problems {
		parts = append(parts, p.Hint)
	}
	return strings.Join(parts, "; ")
}

// Check checks a server, or every primary of a cluster. If strict, a problem is
// an *Error, and so is what the server does not tell; else the log says so.
func Check(ctx context.Context, rdb redis.UniversalClient, strict bool, log *zap.Logger) error {
	problems, err := Find(ctx, rdb)
	switch {
	case err != nil && strict && ctx.Err() == nil:
		problems = append(problems, Problem{unknown, "it does not tell whether it is: " + err.Error(), permit})
	case err != nil:
		log.Warn("cannot check the configuration of Redis", zap.Error(err), zap.String("hint", permit))
	}
	if len(problems) > 0 && strict {
		return &Error{problems}
	}
	for _, p := range problems {
		log.Error("this Redis is not fit for a queue", zap.String("problem", p.Text), zap.String("hint", p.Hint))
	}
	return nil
}

const permit = "let the user of --redis-url run INFO and CONFIG GET (ACL: +info +config|get), or start without --strict-redis"

// Find returns what is wrong with a server, or with any primary of a cluster. The error is
// about what Redis does not tell; what it does tell is returned nevertheless.
func Find(ctx context.Context, rdb redis.UniversalClient) ([]Problem, error) {
	cluster, ok := rdb.(*redis.ClusterClient)
	if !ok {
		return serverProblems(ctx, rdb)
	}
	results := make(chan []Problem, 1)
	results <- nil
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
		problems, err := serverProblems(ctx, node)
		for i := range problems {
			problems[i].Text = node.Options().Addr + ": " + problems[i].Text
		}
		results <- append(<-results, problems...)
		return err
	})
	return <-results, err
}

// ParseInfo returns the fields of an answer to INFO.
func ParseInfo(text string) map[string]string {
	fields := make(map[string]string)
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			fields[key] = value
		}
	}
	return fields
}

// serverProblems reads INFO, which managed services answer as well, and reads
// CONFIG only for what INFO does not tell.
func serverProblems(ctx context.Context, rdb redis.Cmdable) ([]Problem, error) {
	info := map[string]string{}
	for _, section := range []string{"server", "memory", "persistence"} {
		text, err := rdb.Info(ctx, section).Result()
		if err != nil {
			return nil, err
		}
		maps.Copy(info, ParseInfo(text))
	}
	snapshots := "unknown"
	settings, err := rdb.ConfigGet(ctx, "save").Result()
	if err == nil {
		snapshots = settings["save"]
	}
	if info["aof_enabled"] == "1" {
		err = nil // snapshots do not matter
	}
	for _, field := range []string{"maxmemory_policy", "aof_enabled", "redis_version"} {
		if info[field] == "" {
			err = errors.New("INFO has no " + field)
		}
	}
	return evaluate(info, snapshots), err
}

// evaluate returns the problems of a server, given its INFO and its setting
// "save". What the server does not tell is no problem.
func evaluate(info map[string]string, snapshots string) []Problem {
	var out []Problem
	if policy := info["maxmemory_policy"]; policy != "" && policy != "noeviction" {
		out = append(out, Problem{
			Eviction, fmt.Sprintf("maxmemory-policy is %s: when memory is short, tasks and leases disappear", policy),
			"set maxmemory-policy noeviction",
		})
	}
	switch field := writeStatus(info); {
	case info["aof_enabled"] == "0" && snapshots == "":
		out = append(out, Problem{Persistence, "nothing is persisted: a restart forgets every task", "set appendonly yes"})
	case info[field] == "err":
		out = append(out, Problem{
			Persistence, "Redis fails to persist its data (" + field + ": err): a restart forgets what it could not write",
			"look at Redis' log, and at the space on its disk",
		})
	}
	if version := info["redis_version"]; version != "" && olderThan(version, 6, 2) {
		out = append(out, Problem{
			Version, fmt.Sprintf("version %s is too old", version),
			"use Redis 6.2 or newer",
		})
	}
	return out
}

// writeStatus names the field of INFO that says whether Redis could write what it persists.
func writeStatus(info map[string]string) string {
	if info["aof_enabled"] == "1" {
		return "aof_last_write_status"
	}
	return "rdb_last_bgsave_status"
}

// olderThan returns false for a version that it cannot read.
func olderThan(version string, major, minor int) bool {
	first, rest, _ := strings.Cut(version, ".")
	second, _, _ := strings.Cut(rest, ".")
	gotMajor, errMajor := strconv.Atoi(first)
	gotMinor, errMinor := strconv.Atoi(second)
	return errMajor == nil && errMinor == nil && (gotMajor < major || gotMajor == major && gotMinor < minor)
}
