package httpx

import (
	"net/http"
	"regexp"
	"strconv"
	"time"
)

// More than 20 digits are no number that anyone means.
var delaySeconds = regexp.MustCompile(`^[0-9]{1,20}$`)

// RetryAfter reads the Retry-After header, which is a number of seconds or an
// HTTP date. A date is taken relative to the answer's own Date header, so that
// the local clock does not matter; without a Date it is taken relative to now.
//
// The result is between 0 and limit: a mistake of the server must not make the
// caller wait for a day. It is 0 if the header is absent, lies in the past, or
// is neither of the two forms.
func RetryAfter(header http.Header, now time.Time, limit time.Duration) time.Duration {
	value := header.Get("Retry-After")
	if value == "" {
		return 0
	}
	if delaySeconds.MatchString(value) {
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil || seconds > int64(limit/time.Second) {
			return limit
		}
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	if date, err := http.ParseTime(header.Get("Date")); err == nil {
		now = date
	}
	return min(max(at.Sub(now), 0), limit)
}
