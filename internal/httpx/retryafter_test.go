package httpx

import (
	"net/http"
	"testing"
	"time"
)

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 31, 9, 30, 0, 0, time.UTC)
	stamp := func(at time.Time) string { return at.Format(http.TimeFormat) }
	for _, tc := range []struct {
		value, date string
		want        time.Duration
	}{
		{"", "", 0},
		{"0", "", 0},
		{"5", "", 5 * time.Second},
		{"3600", "", time.Hour},
		{"3601", "", time.Hour},
		{"99999999999999999999", "", time.Hour},
		{"999999999999999999999", "", 0}, // 21 digits: no number that anyone means
		{"-5", "", 0},
		{"+5", "", 0},
		{"1.5", "", 0},
		{"soon", "", 0},
		{stamp(now.Add(7 * time.Second)), "", 7 * time.Second},
		{stamp(now.Add(-7 * time.Second)), "", 0},
		{stamp(now.Add(48 * time.Hour)), "", time.Hour},
		{stamp(now.Add(time.Hour + 7*time.Second)), stamp(now.Add(time.Hour)), 7 * time.Second},
		{stamp(now.Add(7 * time.Second)), "garbage", 7 * time.Second},
	} {
		header := http.Header{"Retry-After": {tc.value}, "Date": {tc.date}}
		if got := RetryAfter(header, now, time.Hour); got != tc.want {
			t.Errorf("%q at %q: got %s, want %s", tc.value, tc.date, got, tc.want)
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, seed := range []string{"5", "-1", "Sat, 31 Jan 2026 09:30:00 GMT", "99999999999999999999", "٣", ""} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, value, date string) {
		got := RetryAfter(http.Header{"Retry-After": {value}, "Date": {date}}, time.Now(), time.Hour)
		if got < 0 || got > time.Hour {
			t.Fatalf("%q gives %s, want 0 to the limit", value, got)
		}
	})
}
