package simulator

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const throttledText = "The throttling threshold has been reached"

// refusal is the answer to a call that the quota has no room for.
func (c *counter) refusal(now int64) *reply {
	text := throttledText
	if c.quota.tells(TellText) {
		text += fmt.Sprintf(": policy %s over ratelimit,limit:%d,time:%s", c.quota.Policy, c.limit(), periodText(c.quota.Period))
	}
	rep := gateway(http.StatusTooManyRequests, "APIG.0308", text)
	wait := c.quota.RetryAfter
	if wait == RetryAfterAuto {
		wait = time.Duration(c.meter.moreAt(now) - now)
	}
	switch {
	case wait <= 0:
	case c.quota.RetryAfterDate:
		rep.header.Set("Retry-After", time.Unix(seconds(now+int64(wait)), 0).UTC().Format(http.TimeFormat))
	default:
		rep.header.Set("Retry-After", strconv.FormatInt(seconds(int64(wait)), 10))
	}
	return rep
}

// periodText writes a period as the gateway does: 1 second, 5 minute.
func periodText(period time.Duration) string {
	n, _, long := splitPeriod(period)
	return strconv.FormatInt(n, 10) + " " + long
}

// seconds rounds nanoseconds up.
func seconds(ns int64) int64 { return (ns + int64(time.Second) - 1) / int64(time.Second) }

// tellHeaders returns the headers of an answer that tell of the quotas that were
// asked, or nil. They say what is left after this call.
func tellHeaders(asked []*counter, x *exchange, now int64) http.Header {
	var (
		told             http.Header
		policies, states []string
		least            *counter
	)
	for _, c := range asked {
		if c.meter == nil || len(c.quota.Tell) == 0 {
			continue
		}
		if told == nil {
			told = make(http.Header)
		}
		left := max(0, c.meter.left(now))
		if c.quota.tells(TellDebug) && one(x.Header, "X-Apig-Mode") == "debug" {
			told.Add("X-Apig-RateLimit-"+c.quota.Policy, fmt.Sprintf("remain:%d,limit:%d,time:%s", left, c.limit(), periodText(c.quota.Period)))
		}
		if c.quota.tells(TellRateLimit) {
			policies = append(policies, fmt.Sprintf(`"%s";q=%d;w=%d`, c.quota.Name, c.limit(), c.quota.Period/time.Second))
			states = append(states, fmt.Sprintf(`"%s";r=%d;t=%d`, c.quota.Name, left, seconds(c.meter.moreAt(now)-now)))
		}
		if (c.quota.tells(TellXRateLimit) || c.quota.tells(TellXRateLimitEpoch)) && (least == nil || left < least.meter.left(now)) {
			least = c
		}
	}
	if len(policies) > 0 {
		told.Set("RateLimit-Policy", strings.Join(policies, ", "))
		told.Set("RateLimit", strings.Join(states, ", "))
	}
	if least != nil {
		reset := least.meter.moreAt(now)
		shown := seconds(reset - now)
		if least.quota.tells(TellXRateLimitEpoch) {
			shown = seconds(reset)
		}
		told.Set("X-RateLimit-Limit", strconv.Itoa(least.limit()))
		told.Set("X-RateLimit-Remaining", strconv.FormatInt(max(0, least.meter.left(now)), 10))
		told.Set("X-RateLimit-Reset", strconv.FormatInt(shown, 10))
	}
	return told
}
