package doctor

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
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
