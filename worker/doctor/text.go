package doctor

import (
	"fmt"
	"strings"
	"time"
)

// count writes a number with its noun, which is given in the plural, with an s at its end.
func count(n int64, nouns string) string {
	if n == 1 {
		return "1 " + strings.TrimSuffix(nouns, "s")
	}
	return fmt.Sprintf("%d %s", n, nouns)
}

// are returns the verb that goes with a number.
func are(n int64) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

// round cuts digits that nobody reads.
func round(d time.Duration) time.Duration {
	for _, unit := range []time.Duration{time.Second, time.Millisecond, time.Microsecond} {
		if d.Abs() >= 10*unit {
			return d.Round(unit)
		}
	}
	return d
}

// days writes a time in whole days, hours or minutes.
func days(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return count(int64(d.Hours()/24), "days")
	case d >= 2*time.Hour:
		return count(int64(d.Hours()), "hours")
	case d >= 2*time.Minute:
		return count(int64(d.Minutes()), "minutes")
	default:
		return count(int64(d.Seconds()), "seconds")
	}
}
