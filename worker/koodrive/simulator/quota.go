package simulator

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// The shapes of quotas.
const (
	// ShapeBucket is a token bucket. It holds Burst calls, is full at the start,
	// and gains Limit calls a Period, evenly.
	ShapeBucket = "bucket"
	// ShapeFixed grants Limit calls in each window. The windows are Period long
	// and aligned to the clock: one of an hour begins on the hour, in UTC.
	ShapeFixed = "fixed"
	// ShapeSliding grants a call if fewer than Limit were granted in the Period
	// before it.
	ShapeSliding = "sliding"
)

// What a quota may tell its callers. A refusal is always a 429 with APIG.0308.
const (
	// TellText puts the policy, the limit and the period into the text of a
	// refusal, as the vendor's gateway does.
	TellText = "text"
	// TellDebug answers a request with X-Apig-Mode: debug by a header such as
	// X-Apig-RateLimit-api: remain:9,limit:10,time:10 second.
	TellDebug = "debug"
	// TellRateLimit adds RateLimit-Policy and RateLimit, as in the IETF's draft,
	// to every answer.
	TellRateLimit = "ratelimit"
	// TellXRateLimit adds X-RateLimit-Limit, -Remaining and -Reset to every
	// answer, with the seconds until the reset. TellXRateLimitEpoch writes the
	// Unix time of the reset instead. Of several quotas the one shows that has
	// least left.
	TellXRateLimit      = "x-ratelimit"
	TellXRateLimitEpoch = "x-ratelimit-epoch"
)

const (
	// RetryAfterAuto is the time until the quota grants a call again.
	RetryAfterAuto time.Duration = -1
	// NoLimit is the limit of a quota that grants every call.
	NoLimit = -1

	maxLimit = 1_000_000_000
	// maxSlidingLimit bounds memory: a sliding window remembers each granted call
	// of a period, in 8 bytes.
	maxSlidingLimit = 10_000_000
	maxPeriod       = 366 * 24 * time.Hour
	// maxForeign is a second's. After a silence, the next call makes the calls that
	// strangers made meanwhile: a hundred million take about a second.
	maxForeign = 10_000
)

// Quota is how many calls the gateway grants in a time. ParseQuota describes the
// text form. A quota that refuses nothing but one user's calls has Limit 0 and
// names the user in Match.
//
// If several quotas concern a call, each of them must grant it. A refused call
// uses up nothing.
type Quota struct {
	// Name is shown in Stats, in the log, and in RateLimit headers. Default: the
	// policy, and the call if Match names one, such as "api-unbind". A name that
	// is taken gets a number: "api-2".
	Name string
	// Match says which calls the quota concerns. The zero value matches all.
	Match Match
	// PerCall gives each kind of call a quota of its own, such as unbind and
	// list, and PerUser each X-User-Id.
	PerCall, PerUser bool
	// Shape is ShapeBucket, ShapeFixed or ShapeSliding.
	Shape string
	// Limit is how many calls are granted in a Period, from 0.
	Limit int
	// Period is in whole seconds.
	Period time.Duration
	// Burst is how many calls a full bucket holds. Default: the limit.
	Burst int
	// Foreign is how many calls strangers make in a Period, evenly, out of the
	// same quota. They are refused too if it is used up.
	Foreign int
	// Changes are the limits that follow, in the order of time.
	Changes []QuotaChange

	// Policy is the dimension that the gateway names: api, user, app, ip or
	// api-allenv. It is only a name: Match, PerCall and PerUser say what
	// counts. Default: api.
	Policy string
	// Tell lists what callers are told: TellText and so on. If it is empty, the
	// quota is silent: a refusal names nothing.
	Tell []string
	// RetryAfter adds a Retry-After header to refusals: a time, rounded up to
	// seconds, or RetryAfterAuto. It is written as an HTTP date if
	// RetryAfterDate is set.
	RetryAfter     time.Duration
	RetryAfterDate bool
}

// QuotaChange is a new limit of a quota. A bucket keeps what it holds, and a window
// counts the calls that it has granted.
type QuotaChange struct {
	// After is the time since the quota was added: for the quotas of a Config,
	// since New.
	After time.Duration
	// Limit replaces the quota's. With NoLimit every call is granted, and a limit
	// that follows begins with an unused quota.
	Limit int
}

const defaultPolicy = "api"

var (
	quotaName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

	quotaShapes   = []string{ShapeBucket, ShapeFixed, ShapeSliding}
	quotaPolicies = []string{defaultPolicy, "user", "app", "ip", "api-allenv"}
	quotaTells    = []string{TellText, TellDebug, TellRateLimit, TellXRateLimit, TellXRateLimitEpoch}
)

// validate names the first setting of a quota that makes no sense, and what would
// make sense.
func (q Quota) validate() error {
	most := maxLimit
	if q.Shape == ShapeSliding {
		most = maxSlidingLimit
	}
	switch {
	case !slices.Contains(quotaShapes, q.Shape):
		return fmt.Errorf("shape %q is not known; want one of %s", q.Shape, strings.Join(quotaShapes, ", "))
	case q.Limit < 0 || q.Limit > most:
		return fmt.Errorf("limit is %d; want 0 to %d", q.Limit, most)
	case q.Period < time.Second || q.Period > maxPeriod || q.Period%time.Second != 0:
		return fmt.Errorf("period is %v; want whole seconds, from one second to %d days", q.Period, maxPeriod/(24*time.Hour))
	case q.Burst != 0 && q.Shape != ShapeBucket:
		return fmt.Errorf("burst is for a bucket, not for a %s window", q.Shape)
	case q.Burst < 0 || q.Burst > maxLimit:
		return fmt.Errorf("burst is %d; want 1 to %d, or 0 for the limit", q.Burst, maxLimit)
	case q.Foreign < 0 || int64(q.Foreign) > maxForeign*int64(q.Period/time.Second):
		return fmt.Errorf("foreign is %d in %v; want 0 or more, at most %d a second", q.Foreign, q.Period, maxForeign)
	case q.Foreign != 0 && q.PerUser:
		return errors.New("foreign and per-user exclude each other: strangers have no part in a user's own quota")
	case q.Name != "" && !quotaName.MatchString(q.Name):
		return fmt.Errorf("name is %q; want 1 to 64 of A-Z a-z 0-9 . _ -", q.Name)
	case q.Policy != "" && !slices.Contains(quotaPolicies, q.Policy):
		return fmt.Errorf("policy %q is not known; want one of %s", q.Policy, strings.Join(quotaPolicies, ", "))
	case q.RetryAfter != RetryAfterAuto && (q.RetryAfter < 0 || q.RetryAfter > maxPeriod):
		return fmt.Errorf("retry-after is %v; want more than nothing, at most %d days", q.RetryAfter, maxPeriod/(24*time.Hour))
	case q.RetryAfterDate && q.RetryAfter == 0:
		return errors.New("retry-after as a date needs a time")
	}
	if err := q.validateTell(); err != nil {
		return err
	}
	if err := q.validateChanges(most); err != nil {
		return err
	}
	return q.Match.validate()
}

func (q Quota) validateTell() error {
	for i, what := range q.Tell {
		switch {
		case !slices.Contains(quotaTells, what):
			return fmt.Errorf("tell %q is not known; want one of %s", what, strings.Join(quotaTells, ", "))
		case slices.Contains(q.Tell[:i], what):
			return fmt.Errorf("tell names %s twice", what)
		}
	}
	if q.tells(TellXRateLimit) && q.tells(TellXRateLimitEpoch) {
		return fmt.Errorf("tell names both %s and %s; want one", TellXRateLimit, TellXRateLimitEpoch)
	}
	return nil
}

func (q Quota) validateChanges(most int) error {
	var last time.Duration
	for _, c := range q.Changes {
		switch {
		case c.After <= last:
			return fmt.Errorf("the change at %v comes after one at %v; want times above 0 in ascending order", c.After, last)
		case c.After > maxPeriod:
			return fmt.Errorf("a change comes after %v; want at most %d days", c.After, maxPeriod/(24*time.Hour))
		case c.Limit != NoLimit && (c.Limit < 0 || c.Limit > most):
			return fmt.Errorf("the limit at %v is %d; want 0 to %d, or none", c.After, c.Limit, most)
		}
		last = c.After
	}
	return nil
}

func (q Quota) tells(what string) bool { return slices.Contains(q.Tell, what) }
