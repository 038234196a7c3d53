package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// permission is a command that workers and commands send, with arguments for which Redis can tell
// whether it would allow it.
type permission struct {
	name string
	args []string // behind the key, or all of them if it has none
	// hasKey: the first argument is a key, and it must be allowed for keys of each kind.
	hasKey bool
}

// samples are keys, one of each kind that must be allowed; docs/redis-keys.md lists all.
var samples = []string{"asynq:{unbind}:t:x", "kooworker:{batch:x}:meta", "{kooworker:fleet}:workers"}

// permissions are what the whole of kooworker needs, in and outside scripts. A test compares them
// with what a worker and the commands send.
var permissions = []permission{
	{"ping", nil, false}, {"time", nil, false}, {"info", nil, false}, {"evalsha", []string{"x", "0"}, false}, {"eval", []string{"x", "0"}, false},
	{"script", []string{"load", "x"}, false}, {"subscribe", []string{"asynq:cancel"}, false},
	{"scan", []string{"0"}, false}, {"wait", []string{"0", "0"}, false}, {"memory", []string{"usage", samples[0]}, false},
	{"exists", nil, true}, {"type", nil, true}, {"del", nil, true}, {"unlink", nil, true}, {"expire", []string{"1"}, true}, {"expireat", []string{"1"}, true},
	{"pexpire", []string{"1"}, true}, {"pexpireat", []string{"1"}, true},
	{"get", nil, true}, {"set", []string{"x"}, true}, {"setex", []string{"1", "x"}, true}, {"mget", nil, true}, {"incr", nil, true},
	{"append", []string{"x"}, true}, {"strlen", nil, true}, {"getrange", []string{"0", "1"}, true}, {"setrange", []string{"0", "x"}, true}, {"setbit", []string{"0", "1"}, true},
	{"hget", []string{"f"}, true}, {"hmget", []string{"f"}, true}, {"hset", []string{"f", "x"}, true}, {"hsetnx", []string{"f", "x"}, true}, {"hdel", []string{"f"}, true}, {"hgetall", nil, true},
	{"hkeys", nil, true}, {"hvals", nil, true}, {"hexists", []string{"f"}, true}, {"hincrby", []string{"f", "1"}, true}, {"hscan", []string{"0"}, true},
	{"lpush", []string{"x"}, true}, {"rpush", []string{"x"}, true}, {"llen", nil, true}, {"lrange", []string{"0", "1"}, true}, {"lindex", []string{"0"}, true},
	{"lset", []string{"0", "x"}, true}, {"ltrim", []string{"0", "1"}, true}, {"rpoplpush", []string{samples[0]}, true}, {"blmove", []string{samples[0], "RIGHT", "LEFT", "1"}, true},
	{"lrem", []string{"0", "x"}, true}, {"lpos", []string{"x"}, true},
	{"sadd", []string{"x"}, true}, {"srem", []string{"x"}, true}, {"smembers", nil, true}, {"sismember", []string{"x"}, true}, {"smismember", []string{"x"}, true},
	{"zadd", []string{"1", "x"}, true}, {"zrem", []string{"x"}, true}, {"zcard", nil, true}, {"zcount", []string{"0", "1"}, true}, {"zscore", []string{"x"}, true}, {"zscan", []string{"0"}, true},
	{"zrange", []string{"0", "1"}, true}, {"zrangebyscore", []string{"0", "1"}, true}, {"zrevrange", []string{"0", "1"}, true}, {"zrangebylex", []string{"-", "+"}, true}, {"zremrangebyrank", []string{"0", "1"}, true}, {"zremrangebyscore", []string{"0", "1"}, true},
	{"xdel", []string{"0-1"}, true}, {"xadd", []string{"*", "f", "x"}, true}, {"xlen", nil, true}, {"xrange", []string{"-", "+"}, true}, {"xrevrange", []string{"+", "-"}, true},
}

// Commands returns the names of the commands that kooworker needs, in and outside scripts.
func Commands() (names []string) {
	for _, p := range permissions {
		names = append(names, p.name)
	}
	return names
}

// allowedCmd asks Redis whether it would allow some commands. It carries out none of them.
//
// ARGV[1] -> a JSON list of commands, each a list of words
//
// Returns the indices of those that it would refuse, from 1; -1 if this Redis, older than 7.0,
// cannot be asked.
var allowedCmd = redis.NewScript(`
if not redis.acl_check_cmd then return {-1} end
local out = {}
for i, command in ipairs(cjson.decode(ARGV[1])) do
  local known, allowed = pcall(redis.acl_check_cmd, unpack(command))
  if known and not allowed then table.insert(out, i) end
end
return out
`)

// commands are the commands to ask about: each permission with each kind of key.
func commands() (out [][]string) {
	for _, p := range permissions {
		switch {
		case !p.hasKey:
			out = append(out, append([]string{p.name}, p.args...))
		default:
			for _, key := range samples {
				out = append(out, append([]string{p.name, key}, p.args...))
			}
		}
	}
	return out
}

// permissions asks each node whether it allows what kooworker needs.
func (d *Doctor) permissions(ctx context.Context) (out []Finding, err error) {
	asked := commands()
	text, err := json.Marshal(asked)
	if err != nil {
		return nil, err
	}
	for _, n := range d.nodes {
		refused, err := allowedCmd.Run(ctx, n, nil, string(text)).Int64Slice()
		switch {
		case redis.HasErrorPrefix(err, "NOPERM"):
			out = append(out, wrong("allow the user of --redis-url +eval, +evalsha and +script|load, and what "+docs+" names", "%sRedis does not allow scripts, without which nothing works: %v", n.of(), err))
			continue
		case err != nil:
			return out, err
		case len(refused) > 0 && refused[0] < 0:
			return skipped("this Redis is older than 7.0, and does not tell what it would allow"), nil
		case len(refused) > 0:
			out = append(out, refusal(n, asked, refused))
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	return ok("the user of --redis-url may run all %d commands that kooworker needs, on its keys", len(permissions)), nil
}

const docs = "docs/redis-keys.md"

// refusal names the commands that are refused, or the keys if all commands are refused on some.
func refusal(n *node, asked [][]string, refused []int64) Finding {
	var names []string
	byKey := make(map[string]int)
	for _, i := range refused {
		command := asked[i-1]
		if !slices.Contains(names, command[0]) {
			names = append(names, command[0])
		}
		if len(command) > 1 {
			byKey[command[1]]++
		}
	}
	keyed := 0
	for _, p := range permissions {
		if p.hasKey {
			keyed++
		}
	}
	var keys []string
	for _, key := range samples {
		if byKey[key] >= keyed {
			keys = append(keys, pattern(key))
		}
	}
	if len(keys) > 0 {
		return wrong(fmt.Sprintf("redis-cli ACL SETUSER NAME %s; and in the file of users", strings.Join(keys, " ")),
			"%sthe user of --redis-url may not use keys that kooworker needs: %s", n.of(), strings.Join(keys, " "))
	}
	return wrong(fmt.Sprintf("redis-cli ACL SETUSER NAME +%s; and in the file of users", strings.Join(names, " +")),
		"%sthe user of --redis-url may not run %s, which workers and commands need", n.of(), strings.ToUpper(strings.Join(names, ", ")))
}

// pattern is the pattern of ACL for the keys of which a sample is one.
func pattern(sample string) string {
	prefix, _, _ := strings.Cut(sample, ":")
	return "~" + prefix + ":*"
}
