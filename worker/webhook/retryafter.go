package webhook

import (
	"net/http"
	"regexp"
	"strconv"
	"time"
)

// maxRetryAfter caps what a receiver may ask for: a slip of its pen must not put
// a webhook off for a day.
const maxRetryAfter = time.Hour

var digits = regexp.MustCompile(`^[0-9]+$`)

// retryAfter reads Retry-After: seconds, or an HTTP date, which is taken
// relative to the answer's own Date so that the local clock does not matter;
// now stands in where there is none. What is not one of the two, or lies in the
// past, is 0.
func retryAfter(header http.Header, now time.Time) time.Duration {
	value := header.Get("Retry-After")
	if digits.MatchString(value) {
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil || seconds > int64(maxRetryAfter/time.Second) {
			return maxRetryAfter
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
	return min(max(at.Sub(now), 0), maxRetryAfter)
}
