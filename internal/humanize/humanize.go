// Package humanize writes numbers for people: counts with their nouns, durations, sizes and
// rates; and texts from strangers, made harmless. The command line, causes, findings and pages
// use it, so that they say the same in the same words. It imports no other package of this module.
package humanize

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// Count writes a number with its noun, such as 1 line or 2 lines. The noun is given in the
// plural, which ends with an s.
func Count[N int | int64](n N, nouns string) string {
	return fmt.Sprintf("%d %s", n, Plural(n, strings.TrimSuffix(nouns, "s"), nouns))
}

// Plural returns the word that goes with a number: one for 1, many for all others.
func Plural[N int | int64](n N, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// Bytes writes a size, such as 1.5 GB.
func Bytes(n int64) string {
	const kilo = 1000
	value, units := float64(n), []string{"B", "kB", "MB", "GB", "TB"}
	for value >= kilo && len(units) > 1 {
		value, units = value/kilo, units[1:]
	}
	if value < 10 && units[0] != "B" {
		return fmt.Sprintf("%.1f %s", value, units[0])
	}
	return fmt.Sprintf("%.0f %s", value, units[0])
}

// PerSecond writes a rate, such as 200/s.
func PerSecond(rate float64) string {
	if rate < 10 {
		return fmt.Sprintf("%.1f/s", rate)
	}
	return fmt.Sprintf("%.0f/s", rate)
}

// Duration writes a duration without zero units at its end: 10m, not 10m0s. It is what a flag
// takes.
func Duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Seconds rounds a time to the units that people would use, such as 90 s, 5 min or 2 h 10 min.
func Seconds(seconds float64) string {
	s := int(math.Round(seconds))
	switch {
	case s < 120:
		return fmt.Sprintf("%d s", s)
	case s < 2*3600:
		return fmt.Sprintf("%d min", s/60)
	default:
		return fmt.Sprintf("%d h %d min", s/3600, s%3600/60)
	}
}

// Age writes a time in whole days, hours, minutes or seconds, such as 3 days.
func Age(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return Count(int64(d.Hours()/24), "days")
	case d >= 2*time.Hour:
		return Count(int64(d.Hours()), "hours")
	case d >= 2*time.Minute:
		return Count(int64(d.Minutes()), "minutes")
	default:
		return Count(int64(d.Seconds()), "seconds")
	}
}

// Round cuts the digits of a duration that nobody reads.
func Round(d time.Duration) time.Duration {
	for _, unit := range []time.Duration{time.Second, time.Millisecond, time.Microsecond} {
		if d.Abs() >= 10*unit {
			return d.Round(unit)
		}
	}
	return d
}
