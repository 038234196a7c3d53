package tasks_test

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/kooworker/kooworker/tasks"
)

// Validation is written as loops; the formats are documented as patterns. Both
// must accept the same ids.
func TestValidate_DocumentedPatterns(t *testing.T) {
	t.Parallel()
	id := rapid.OneOf(
		rapid.StringOfN(rapid.RuneFrom([]rune("aZ09_-.@:\n é")), 0, 70, -1),
		rapid.StringMatching(`[A-Za-z0-9_.-]{1,66}(@[0-9]{0,9})?`),
		rapid.Just(strings.Repeat("x", 64)), rapid.Just(strings.Repeat("x", 65)), rapid.Just("x@"), rapid.Just("@1"), rapid.Just("x@1@2"),
	)
	device := regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	lock := regexp.MustCompile(`^[A-Za-z0-9-]{1,64}(@[0-9]{1,8})?$`)
	batch := regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	rapid.Check(t, func(t *rapid.T) {
		s := id.Draw(t, "id")
		for _, tc := range []struct {
			name    string
			err     error
			pattern *regexp.Regexp
		}{
			{"device", tasks.DeviceUnbind{UserID: "u", DeviceID: s}.Validate(), device},
			{"lock", tasks.LockRelease{UserID: "u", LockID: s}.Validate(), lock},
			{"batch", tasks.ValidateBatchID(s), batch},
		} {
			if want := tc.pattern.MatchString(s); (tc.err == nil) != want {
				t.Errorf("%s %q: %v; want it accepted: %t", tc.name, s, tc.err, want)
			}
		}
	})
}
