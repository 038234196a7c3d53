package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/outage"
)

// isReply reports whether Redis has answered, with an error.
func isReply(err error) bool {
	_, ok := errors.AsType[redis.Error](err)
	return ok
}

// unknown is the finding of a check that could not look.
func (d *Doctor) unknown(ctx context.Context, c check, err error) Finding {
	f := Finding{Name: c.name, Status: Error, Detail: "cannot be checked: " + err.Error()}
	switch {
	case ctx.Err() != nil:
		return Finding{Name: c.name, Status: Skipped, Detail: "interrupted"}
	case redis.HasErrorPrefix(err, "NOPERM"):
		f.Status, f.Hint = Warning, "let the user of --redis-url run that command; redis.permissions lists what workers need"
	case redis.HasErrorPrefix(err, "WRONGTYPE"):
		f.Detail, f.Hint = d.wrongType(ctx, err)
	case asynqx.IsUnavailable(err):
		f.Hint = outage.Hint(err)
		if d.stillServes(ctx) && errors.Is(err, context.DeadlineExceeded) {
			f.Detail, f.Hint = fmt.Sprintf("cannot be checked: no answer within %s", c.limit), "redis.latency says how fast Redis answers; try again"
		}
	}
	return f
}

// stillServes pings. If there is no answer, or a refusal, the rest is skipped.
func (d *Doctor) stillServes(ctx context.Context) bool {
	limited, cancel := context.WithTimeout(ctx, pingLimit)
	defer cancel()
	err := d.cfg.Redis.Ping(limited).Err()
	switch {
	case err == nil, redis.HasErrorPrefix(err, "NOPERM"):
		return true
	case isReply(err):
		d.redisAway = "Redis refuses to serve"
	default:
		d.redisAway = "Redis does not answer any more"
	}
	return false
}

// typesOfKeys are asynq's keys of a queue, and what they must be.
var typesOfKeys = []struct {
	of   func(queue string) string
	want string
}{
	{asynqx.PendingKey, "list"}, {asynqx.ActiveKey, "list"}, {asynqx.LeaseKey, "zset"}, {asynqx.ScheduledKey, "zset"},
	{asynqx.RetryKey, "zset"}, {asynqx.ArchivedKey, "zset"}, {asynqx.CompletedKey, "zset"},
}

// mostKeys is how many keys of another type are told.
const mostKeys = 5

// wrongType names the keys of another type than asynq's. Redis' error does not.
func (d *Doctor) wrongType(ctx context.Context, err error) (detail, hint string) {
	bad, keys, typesErr := d.wrongTypes(ctx)
	if typesErr != nil || len(bad) == 0 {
		return "cannot be checked: " + err.Error(),
			"a key of kooworker or asynq holds what somebody else has written: docs/redis-keys.md lists the keys, and redis-cli TYPE KEY says what is there"
	}
	return "cannot be checked: " + strings.Join(bad, "; "),
		fmt.Sprintf("find out who has written that (redis-cli TYPE says what it is), then delete it: redis-cli DEL '%s'; until then its queue does not work", strings.Join(keys, "' '"))
}

func (d *Doctor) wrongTypes(ctx context.Context) (bad, keys []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, redisLimit)
	defer cancel()
	type answer struct {
		key, want string
		got       *redis.StatusCmd
	}
	var answers []answer
	_, err = d.cfg.Redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		ask := func(key, want string) { answers = append(answers, answer{key, want, p.Type(ctx, key)}) }
		ask(asynqx.AllQueuesKey, "set")
		for _, queue := range slices.Sorted(maps.Keys(tasks.QueueWeights())) {
			for _, t := range typesOfKeys {
				ask(t.of(queue), t.want)
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	for _, a := range answers {
		if got := a.got.Val(); got != a.want && got != "none" && len(bad) < mostKeys {
			bad, keys = append(bad, fmt.Sprintf("the key %s is a %s; want a %s", a.key, got, a.want)), append(keys, a.key)
		}
	}
	return bad, keys, nil
}
