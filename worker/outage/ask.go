package outage

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
)

// Keys returns the keys to ask with: one for each of some queues, on the master that has the
// queue.
func Keys(queues []string) []string {
	keys := make([]string, len(queues))
	for i, queue := range queues {
		keys[i] = "kooworker:{" + queue + "}:never"
	}
	return keys
}

// Ask asks each master that has one of the keys for a write that changes nothing: it would
// only update a member of a sorted set that is not there. An error that is not about Redis,
// such as a missing permission, is an answer too. The error has all those of Redis.
func Ask(ctx context.Context, rdb redis.UniversalClient, keys []string) error {
	var mu sync.Mutex
	var failed []error
	asynqx.EachMaster(ctx, rdb, keys, func(key string) string { return key }, func(keys []string) {
		err := rdb.ZAddXX(ctx, keys[0], redis.Z{Member: "never"}).Err()
		if err == nil || !asynqx.IsUnavailable(err) {
			return
		}
		if master := asynqx.MasterOf(ctx, rdb, keys[0]); master != "" {
			err = fmt.Errorf("%s: %w", master, err)
		}
		mu.Lock()
		defer mu.Unlock()
		failed = append(failed, err)
	})
	return errors.Join(failed...)
}

// reason says in one line why Redis does not answer.
func reason(err error) string {
	var parts []string
	for _, err := range flatten(err) {
		text := err.Error()
		if network, ok := errors.AsType[net.Error](err); ok && network.Timeout() || errors.Is(err, context.DeadlineExceeded) {
			text = "no answer within " + askTimeout.String()
		}
		parts = append(parts, text)
	}
	slices.Sort(parts)
	return strings.Join(slices.Compact(parts), "; ")
}

// flatten returns the errors that errors.Join has joined.
func flatten(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

// hints are for error replies of a Redis that can be reached.
//
//nolint:gosec // G101: these are Redis' error codes, not credentials
var hints = map[string]string{
	"OOM ":                          "Redis is full: give it more memory (maxmemory), or let workers make room",
	"READONLY ":                     "this Redis is a replica: name the primary, or the sentinels, in --redis-url",
	"MASTERDOWN ":                   "this Redis is a replica without its primary: name the primary, or the sentinels, in --redis-url",
	"CLUSTERDOWN ":                  "slots of the cluster have no master: redis-cli CLUSTER NODES says which nodes failed",
	"NOREPLICAS ":                   "bring a replica back: Redis wants more that acknowledge (min-replicas-to-write)",
	"max number of clients reached": "Redis serves as many clients as it allows: let fewer connect, or raise its maxclients",
	"LOADING ":                      "Redis is still loading its data: try again in a moment",
	"NOAUTH ":                       "Redis wants a password: give it in --redis-url",
	"WRONGPASS ":                    "Redis refuses the user or password of --redis-url",
	"NOPERM ":                       "let the user of --redis-url run that command on that key (ACL): kooworker doctor lists what is missing",
	"MISCONF ":                      "Redis cannot persist its data and refuses writes until it can: look at its log and its disk",
}

// Hint says what an operator can do about an error of Redis.
func Hint(err error) string {
	for prefix, hint := range hints {
		if strings.Contains(err.Error(), prefix) {
			return hint
		}
	}
	return "check --redis-url, and that the server runs and can be reached from here (redis-cli PING)"
}
