package koodrive

import (
	"cmp"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limit is a quota as an answer names it: so many calls in a window of this length.
// It is zero if the answer names none. The package documentation says where it is read.
type Limit struct {
	// Calls is how many calls the window allows, at most a billion. Window is its
	// length in whole seconds, at most 31 days. Both are 0 if the answer names no
	// limit per time. What is left may be known even then.
	Calls  int
	Window time.Duration
	// Dimension is what the limit counts by: "api", "user", "app", "ip" or
	// "api-allenv". It is "" if that is unknown.
	Dimension string
	// Remaining is how many calls are left, if HasRemaining is set.
	Remaining    int
	HasRemaining bool
	// Reset is the time until the window starts anew, or until more calls are left if
	// the quota has no fixed window. It is not longer than Window, and 0 if unknown.
	Reset time.Duration
}

// What is believed. A limit beyond that is ignored, and so is a text, or all lines of
// a header together, that is longer.
const (
	maxLimitCalls  = 1_000_000_000
	maxLimitWindow = 31 * 24 * time.Hour
	maxLimitText   = 1 << 10
)

// namedLimit is a limit with the name under which a header tells what is left of it.
type namedLimit struct {
	name string // "" if it has none
	Limit
}

// readLimit returns the strictest limit that an answer names. The text is that of a
// refusal, or "". What is not understood is ignored.
func readLimit(header http.Header, text string) Limit {
	named, others := policies(header)
	limits := append(gatewayLimits(header, text), named...)
	rest := Limit{} // what is left of a limit that nothing names
	for _, s := range states(header, others) {
		if !s.addTo(limits) && s.HasRemaining && (!rest.HasRemaining || s.Remaining < rest.Remaining) {
			rest = Limit{Remaining: s.Remaining, HasRemaining: true, Reset: s.Reset}
		}
	}
	if len(limits) == 0 {
		return rest
	}
	return slices.MinFunc(limits, compareLimits).Limit
}

// compareLimits compares how many calls a second the limits allow, and if these are
// equal, how many are left.
func compareLimits(a, b namedLimit) int {
	left := func(l namedLimit) int {
		if l.HasRemaining {
			return l.Remaining
		}
		return math.MaxInt
	}
	// The products are below 10⁹ times the seconds of 31 days.
	return cmp.Or(
		cmp.Compare(int64(a.Calls)*int64(b.Window/time.Second), int64(b.Calls)*int64(a.Window/time.Second)),
		cmp.Compare(left(a), left(b)),
	)
}

// newLimit returns a limit, and false if it makes no sense.
func newLimit(calls, seconds int64) (Limit, bool) {
	if calls < 1 || calls > maxLimitCalls || seconds < 1 || seconds > int64(maxLimitWindow/time.Second) {
		return Limit{}, false
	}
	return Limit{Calls: int(calls), Window: time.Duration(seconds) * time.Second}, true
}

// withRemaining returns the limit with so many calls left, if that makes sense.
func (l Limit) withRemaining(n int64) Limit {
	if n >= 0 && n <= maxLimitCalls {
		l.Remaining, l.HasRemaining = int(n), true
	}
	return l
}

// gatewayText is how the gateway names a limit. In the text of a refusal:
//
//	policy user over ratelimit,limit:100,time:1 minute
//
// In a header:
//
//	remain:9,limit:10,time:10 second
var gatewayText = regexp.MustCompile(`(?i)\b(?:policy ([a-z-]{1,32}) over ratelimit,\s?)?(?:remain:\s?([0-9]{1,12}),\s?)?` +
	`limit:\s?([0-9]{1,12}),\s?time:\s?([0-9]{1,8})\s?(second|minute|hour|day)s?\b`)

// dimensions maps each header of the gateway to what the limit in it counts by. Their
// order decides which of equal limits is returned.
var dimensions = []struct{ header, dimension string }{
	{"X-Apig-Ratelimit-Api", "api"},
	{"X-Apig-Ratelimit-User", "user"},
	{"X-Apig-Ratelimit-App", "app"},
	{"X-Apig-Ratelimit-Ip", "ip"},
	{"X-Apig-Ratelimit-Api-Allenv", "api-allenv"},
}

// gatewayLimits returns the limits that the gateway names, in the text of a refusal and
// in its headers.
func gatewayLimits(header http.Header, text string) (limits []namedLimit) {
	if text != "" {
		limits = appendGatewayLimit(limits, text, "")
	}
	for _, d := range dimensions {
		values := header[d.header]
		if size(values) > maxLimitText {
			continue
		}
		for _, value := range values {
			limits = appendGatewayLimit(limits, value, d.dimension)
		}
	}
	return limits
}

// appendGatewayLimit appends the limit in a text, if there is one. If the dimension is
// "", the text may name it.
func appendGatewayLimit(limits []namedLimit, text, dimension string) []namedLimit {
	m := gatewayText.FindStringSubmatch(text[:min(len(text), maxLimitText)])
	if m == nil {
		return limits
	}
	policy, remain, calls, length, unit := strings.ToLower(m[1]), m[2], m[3], m[4], strings.ToLower(m[5])
	seconds := map[string]int64{"second": 1, "minute": 60, "hour": 3600, "day": 86400}[unit]
	l, ok := newLimit(atoi(calls), atoi(length)*seconds)
	if !ok {
		return limits
	}
	if remain != "" {
		l = l.withRemaining(atoi(remain))
	}
	l.Dimension = dimension
	for _, d := range dimensions {
		if dimension == "" && d.dimension == policy {
			l.Dimension = policy
		}
	}
	return append(limits, namedLimit{Limit: l})
}

// atoi returns the value of a few digits.
func atoi(digits string) int64 {
	n, _ := strconv.ParseInt(digits, 10, 64)
	return n
}

// size returns the length of a header in bytes, all lines together.
func size(values []string) (n int) {
	for _, value := range values {
		n += len(value)
	}
	return n
}
