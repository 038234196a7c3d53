package tasks

import "testing"

func TestReason_Hint(t *testing.T) {
	t.Parallel()
	none := map[Reason]bool{OK: true, Gone: true, Outdated: true, CalledOff: true} // no failures
	for _, r := range Reasons() {
		if hint := r.Hint(); (hint == "") != none[r] {
			t.Errorf("the hint of %s is %q; want none: %t", r, hint, none[r])
		}
	}
}
