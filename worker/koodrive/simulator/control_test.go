package simulator_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// control makes a request to the control face and reads the answer into v.
func control[T any](t *testing.T, b *bundle, method, path, body string, status int) (v T) {
	t.Helper()
	w := httptest.NewRecorder()
	http.StripPrefix("/_sim", b.Control()).ServeHTTP(w, httptest.NewRequest(method, "/_sim"+path, strings.NewReader(body)))
	if w.Code != status {
		t.Fatalf("%s %s %s answers %d %s; want %d", method, path, body, w.Code, w.Body, status)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("%s %s answers %s: %v", method, path, w.Body, err)
	}
	return v
}

type shownFault struct {
	Fault  string
	Name   string
	Served int
}

type shownQuota struct {
	Quota string
	Name  string
	simulator.QuotaCount
}

func TestControl_AllRequests(t *testing.T) {
	t.Parallel()
	b := setup(t, simulator.Config{})

	devices := control[[]simulator.Device](t, b, "POST", "/devices", `{"user_id":"u-1","count":3}`, 200)
	if len(devices) != 3 {
		t.Fatalf("bound %v; want 3 devices", devices)
	}
	control[[]simulator.Device](t, b, "POST", "/devices", `{"user_id":"u-1","device_id":"d-1"}`, 200)
	if got := control[[]simulator.Device](t, b, "GET", "/devices?user_id=u-1", "", 200); len(got) != 4 {
		t.Errorf("devices are %v; want 4", got)
	}

	lock := control[simulator.Lock](t, b, "POST", "/locks", `{"user_id":"u-1"}`, 200)
	control[simulator.Lock](t, b, "POST", "/locks", `{"user_id":"u-1","lock_id":"l@100","expires_in":"-1s"}`, 200)
	if got := control[[]simulator.Lock](t, b, "GET", "/locks?user_id=u-1", "", 200); len(got) != 1 || got[0].LockID != lock.LockID {
		t.Errorf("locks are %v; want only the lock that has not expired", got)
	}

	control[[]shownFault](t, b, "POST", "/faults", `{"fault":"forbidden,call=unbind,times=1"}`, 200)
	b.unbind("d-1").wantKooDrive(t, 403, 13000410)
	b.unbind("d-1").wantKooDrive(t, 200, 0)
	shown := control[[]shownFault](t, b, "GET", "/faults", "", 200)
	if len(shown) != 1 || shown[0] != (shownFault{"forbidden,call=unbind,times=1", "forbidden", 1}) {
		t.Errorf("faults are %v; want one, served once", shown)
	}
	if left := control[[]shownFault](t, b, "DELETE", "/faults", "", 200); len(left) != 0 {
		t.Errorf("faults are %v; want none", left)
	}

	control[[]shownQuota](t, b, "POST", "/quotas", `{"quota":"fixed:1/h,name=hour"}`, 200)
	b.unbind("d-1").wantKooDrive(t, 404, 13000309)
	b.unbind("d-1").wantGateway(t, 429, "APIG.0308")
	quotas := control[[]shownQuota](t, b, "GET", "/quotas", "", 200)
	want := shownQuota{"fixed:1/h,policy=api,name=hour", "hour", simulator.QuotaCount{Granted: 1, Refused: 1}}
	if len(quotas) != 1 || quotas[0] != want {
		t.Errorf("quotas are %+v; want %+v", quotas, want)
	}
	if left := control[[]shownQuota](t, b, "DELETE", "/quotas", "", 200); len(left) != 0 {
		t.Errorf("quotas are %v; want none", left)
	}
	b.unbind("d-1").wantKooDrive(t, 404, 13000309)

	if st := control[simulator.Stats](t, b, "GET", "/stats", "", 200); st.Unbound != 1 || st.Faults["forbidden"] != 1 || st.Answers[403] != 1 {
		t.Errorf("stats are %+v; want one unbind, and the fault with its 403", st)
	}
	if log := control[[]simulator.Entry](t, b, "GET", "/requests?n=1", "", 200); len(log) != 1 || log[0].Status != 404 || log[0].Target != "d-1" {
		t.Errorf("requests are %+v; want the last unbind", log)
	}
}

func TestControl_BadRequest(t *testing.T) {
	t.Parallel()
	b := setup(t, simulator.Config{})
	for _, tc := range []struct{ method, path, body, want string }{
		{"GET", "/requests?n=x", "", "number"},
		{"GET", "/devices", "", "user_id"},
		{"GET", "/locks", "", "user_id"},
		{"POST", "/devices", `{"count":1}`, "user_id"},
		{"POST", "/devices", `{"user_id":"u"}`, "count"},
		{"POST", "/devices", `{"user_id":"u","count":1,"device_id":"d"}`, "either"},
		{"POST", "/devices", `{"user_id":"u","count":1,"colour":1}`, "colour"},
		{"POST", "/devices", `{"user_id":"u","count":1}{}`, "goes on"},
		{"POST", "/locks", `{}`, "user_id"},
		{"POST", "/locks", `{"user_id":"u","expires_in":"soon"}`, "such as 10m"},
		{"POST", "/quotas", `{}`, "quota is missing"},
		{"POST", "/quotas", `{"quota":"leaky:1/s"}`, "want one of"},
		{"POST", "/quotas", ``, "body"},
		{"POST", "/faults", `{}`, "fault is missing"},
		{"POST", "/faults", `{"fault":"explode"}`, "want one of"},
		{"POST", "/faults", ``, "body"},
	} {
		got := control[map[string]string](t, b, tc.method, tc.path, tc.body, 400)["error"]
		if !strings.Contains(got, tc.want) {
			t.Errorf("%s %s %s answers %q; want it to say %q", tc.method, tc.path, tc.body, got, tc.want)
		}
	}
}
