package answers_test

import (
	"net/http"
	"testing"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/koodrive/answers"
)

// If a reason were missing, or a name given twice, the catalogue would test less than
// it seems to.
func TestAll_CatalogueIsComplete(t *testing.T) {
	t.Parallel()
	names, reasons := map[string]bool{}, map[tasks.Reason]bool{}
	for _, a := range answers.All() {
		if names[a.Name] {
			t.Errorf("%s occurs twice", a.Name)
		}
		names[a.Name], reasons[a.Reason] = true, true
		if http.StatusText(a.Status) == "" || !a.Reason.Known() {
			t.Errorf("%s: got status %d and reason %q, want known ones", a.Name, a.Status, a.Reason)
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
			t.Errorf("no answer has the reason %s, want at least one", reason)
		}
	}
	if _, ok := answers.ByName("no such answer"); ok {
		t.Error("a name that is not in the catalogue was found, want it not to be")
	}
}

func TestByName_ReturnsACopy(t *testing.T) {
	t.Parallel()
	a, _ := answers.ByName("throttled-retry-after")
	a.Header.Set("Retry-After", "9")
	if again, _ := answers.ByName("throttled-retry-after"); again.Header.Get("Retry-After") != "1" {
		t.Error("a change to one answer changed the next, want copies")
	}
}
