package tasks

import (
	"fmt"
	"strings"
	"time"
)

// ParseTime reads the value of a field as an RFC 3339 time with a time zone. It
// refuses the similar formats that time.Parse accepts. The result is in UTC, and
// the error is a *FieldError.
func ParseTime(field, text string) (time.Time, error) {
	at, err := time.Parse(time.RFC3339, text)
	switch {
	case strings.TrimSpace(text) == "":
		return time.Time{}, &FieldError{Field: field, Problem: "is empty"}
	case err != nil || !strictTime(text):
		return time.Time{}, &FieldError{Field: field, Problem: fmt.Sprintf("is %+.40q; want RFC 3339 with a time zone, such as 2026-01-31T08:30:00Z", text)}
	}
	return at.UTC(), nil
}

// strictTime reports whether a text that time.Parse has accepted is RFC 3339.
// time.Parse also accepts an hour of one digit, a comma before the fraction, and
// zones beyond 23:59.
func strictTime(text string) bool {
	zone := text[len(text)-len("07:00"):]
	return text[len("2026-01-31T8")] != ':' && !strings.Contains(text, ",") &&
		(strings.HasSuffix(text, "Z") || zone[:len("07")] <= "23" && zone[len("07:"):] <= "59")
}
