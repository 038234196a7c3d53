package humanize_test

import (
	"testing"
	"time"

	"github.com/kooworker/kooworker/internal/humanize"
)

func TestCount(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "0 dead letters", 1: "1 dead letter", 2: "2 dead letters", 11: "11 dead letters", -1: "-1 dead letters"} {
		if got := humanize.Count(n, "dead letters"); got != want {
			t.Errorf("Count(%d) is %q; want %q", n, got, want)
		}
	}
	if got := humanize.Count(int64(1), "done"); got != "1 done" {
		t.Errorf("%q; want 1 done, which has no plural", got)
	}
	if got := humanize.Plural(int64(1), "is", "are") + humanize.Plural(0, "is", "are"); got != "isare" {
		t.Errorf("%q; want is for 1, and are for 0", got)
	}
}

func TestDuration(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0s", 90 * time.Second: "1m30s", 10 * time.Minute: "10m", 2 * time.Hour: "2h", time.Hour + time.Second: "1h0m1s",
	} {
		if got := humanize.Duration(d); got != want {
			t.Errorf("Duration(%d) is %q; want %q", d, got, want)
		}
	}
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ got, want string }{
		{humanize.Bytes(0), "0 B"}, {humanize.Bytes(999), "999 B"}, {humanize.Bytes(1500), "1.5 kB"}, {humanize.Bytes(12_345_678), "12 MB"},
		{humanize.Bytes(2_000_000_000_000_000), "2000 TB"},
		{humanize.PerSecond(0), "0.0/s"}, {humanize.PerSecond(9.94), "9.9/s"}, {humanize.PerSecond(199.7), "200/s"},
		{humanize.Seconds(0.4), "0 s"}, {humanize.Seconds(119.4), "119 s"}, {humanize.Seconds(119.6), "2 min"}, {humanize.Seconds(7199), "119 min"}, {humanize.Seconds(7800), "2 h 10 min"},
		{humanize.Age(time.Second), "1 second"}, {humanize.Age(2 * time.Minute), "2 minutes"}, {humanize.Age(119 * time.Minute), "119 minutes"},
		{humanize.Age(47 * time.Hour), "47 hours"}, {humanize.Age(73 * time.Hour), "3 days"},
		{humanize.Round(12_345_678 * time.Microsecond).String(), "12s"}, {humanize.Round(-1_234_567 * time.Nanosecond).String(), "-1.235ms"}, {humanize.Round(9_999).String(), "9.999µs"},
	} {
		if tc.got != tc.want {
			t.Errorf("%q; want %q", tc.got, tc.want)
		}
	}
}
