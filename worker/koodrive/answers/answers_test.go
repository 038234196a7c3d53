package answers_test

import (
	"net/http"
	"testing"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/koodrive/answers"
)

// A catalogue with a gap, or with two answers of one name, would test less than
// it seems to.
func TestTheCatalogueIsWhole(t *testing.T) {
	t.Parallel()
	names, reasons := map[string]bool{}, map[tasks.Reason]bool{}
	for _, a := range answers.All() {
		if names[a.Name] {
			t.Errorf("%s occurs twice", a.Name)
		}
		names[a.Name], reasons[a.Reason] = true, true
		if http.StatusText(a.Status) == "" || !a.Reason.Known() {
			t.Errorf("%s: status %d, reason %q", a.Name, a.Status, a.Reason)
		}
		if found, ok := answers.ByName(a.Name); !ok || found.Body != a.Body {
			t.Errorf("%s is not found by its name", a.Name)
		}
	}
	for _, reason := range []tasks.Reason{
		tasks.OK, tasks.Gone, tasks.Invalid, tasks.Forbidden, tasks.Unauthorized, tasks.Throttled,
		tasks.Upstream, tasks.Protocol, tasks.Misrouted, tasks.Rejected,
	} {
		if !reasons[reason] {
			t.Errorf("no answer stands for %s", reason)
		}
	}
	if _, ok := answers.ByName("no such answer"); ok {
		t.Error("a name that is not in the catalogue is found")
	}
}

func TestAnswersCanBeChangedWithoutHarm(t *testing.T) {
	t.Parallel()
	a, _ := answers.ByName("throttled-retry-after")
	a.Header.Set("Retry-After", "9")
	if again, _ := answers.ByName("throttled-retry-after"); again.Header.Get("Retry-After") != "1" {
		t.Error("a change to one answer shows in the next")
	}
}
