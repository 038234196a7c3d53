package simulator_test

import (
	"encoding/json"
	"net/http"
	"regexp"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

func data[T any](t *testing.T, a answer) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(a.Data, &v); err != nil {
		t.Fatalf("data of %s: %v", a.Body, err)
	}
	return v
}

func TestUnbind_AnswersDeviceOnce(t *testing.T) {
	t.Parallel()
	b := setup(t, simulator.Config{})
	device := simulator.Device{
		DeviceID: "1775406005920779393", MachineCode: "20250911", DeviceName: "Magic v3",
		DeviceOS: "android", CreateTime: "2025-09-15T06:14:48.630Z",
	}
	if diff := cmp.Diff(device, b.Bind(user, device)); diff != "" {
		t.Errorf("Bind changed a complete device (-given +bound):\n%s", diff)
	}
	first := b.unbind(device.DeviceID)
	want := `{"code":0,"msg":"success","data":{"deviceId":"1775406005920779393","machineCode":"20250911","deviceName":"Magic v3","deviceOS":"android","createTime":"2025-09-15T06:14:48.630Z"}}`
	if first.Status != http.StatusOK || first.Body != want {
		t.Errorf("first unbind answers %d\n%s\nwant\n%s", first.Status, first.Body, want)
	}
	if got := first.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type is %q; want application/json", got)
	}
	if got, want := first.Header.Get("Date"), "Sat, 31 Jan 2026 08:30:00 GMT"; got != want {
		t.Errorf("Date is %q; want the simulator's clock, %q", got, want)
	}
	b.unbind(device.DeviceID).wantKooDrive(t, 404, 13000309)
	if st := b.Stats(); st.Unbound != 1 || st.Requests["unbind"] != 2 || st.Answers[200] != 1 || st.Answers[404] != 1 {
		t.Errorf("stats are %+v; want one of two unbinds done", st)
	}
}

func TestUnbind_DeviceOfAnotherUser(t *testing.T) {
	t.Parallel()
	b := setup(t, simulator.Config{GoneStatus: 400})
	device := b.Bind("u-2", simulator.Device{})
	b.unbind(device.DeviceID).wantKooDrive(t, 400, 13000309)
	if got := b.Devices("u-2"); len(got) != 1 {
		t.Errorf("the other user has %v; want the device still bound", got)
	}
}

func TestBindCall_IdempotentByMachine(t *testing.T) {
	t.Parallel()
	b := setup(t, simulator.Config{})
	empty := b.do(http.MethodGet, prefix+"/device", "")
	if got := string(empty.Data); got != "[]" {
		t.Errorf("list of nothing has data %s; want []", got)
	}
	body := `{"machineCode":"m_1","deviceName":"Phone","deviceOS":"android"}`
	first := data[simulator.Device](t, b.do(http.MethodPost, prefix+"/device", body))
	b.clock.Advance(time.Hour)
	second := data[simulator.Device](t, b.do(http.MethodPost, prefix+"/device", body))
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("the second bind made another device (-first +second):\n%s", diff)
	}
	if !regexp.MustCompile(`^[0-9]{19}$`).MatchString(first.DeviceID) || first.CreateTime != "2026-01-31T08:30:00.500Z" {
		t.Errorf("bound %+v; want an id of 19 digits and the server's time", first)
	}
	list := data[[]simulator.Device](t, b.do(http.MethodGet, prefix+"/device", ""))
	if diff := cmp.Diff([]simulator.Device{first}, list); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
	if st := b.Stats(); st.Bound != 1 {
		t.Errorf("stats count %d bound; want 1", st.Bound)
	}
}

func TestBindCall_MalformedBody(t *testing.T) {
	t.Parallel()
	b := setup(t, simulator.Config{})
	for _, body := range []string{``, `{`, `[]`, `{}`, `{"machineCode":""}`, `{"machineCode":"a-b"}`, `{"machineCode":7}`, `{"machineCode":"m"}{}`} {
		b.do(http.MethodPost, prefix+"/device", body).wantKooDrive(t, 400, 13000102)
	}
}

func TestBind_ReplacesDeviceWithSameID(t *testing.T) {
	t.Parallel()
	b := setup(t, simulator.Config{})
	old := b.Bind(user, simulator.Device{DeviceID: "d", MachineCode: "m1"})
	b.clock.Advance(time.Minute)
	again := b.Bind(user, simulator.Device{DeviceID: "d", MachineCode: "m2"})
	if again.CreateTime <= old.CreateTime {
		t.Errorf("bound anew at %s, first at %s; want later", again.CreateTime, old.CreateTime)
	}
	if diff := cmp.Diff([]simulator.Device{again}, b.Devices(user)); diff != "" {
		t.Errorf("bound devices (-want +got):\n%s", diff)
	}
}

func TestBind_GeneratedIDsDiffer(t *testing.T) {
	t.Parallel()
	b := setup(t, simulator.Config{})
	b.Bind(user, simulator.Device{DeviceID: "1775406005920779393"}) // what would come first
	b.Bind(user, simulator.Device{MachineCode: "m1775406005920779394"})
	for range 1000 {
		b.Bind(user, simulator.Device{})
	}
	if got := len(b.Devices(user)); got != 1002 {
		t.Errorf("%d devices are bound; want 1002", got)
	}
}

func TestLock_ExpiresTenMinutesAfterRenewal(t *testing.T) {
	t.Parallel()
	b := setup(t, simulator.Config{})
	id := data[struct{ LockID string }](t, b.do(http.MethodPost, prefix+"/lock", `{"moduleCode":"102"}`)).LockID
	if !regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}@102$`).MatchString(id) {
		t.Fatalf("lock id is %q; want a UUID and @102", id)
	}
	b.clock.Advance(9 * time.Minute)
	renewed := b.lockCall(http.MethodPatch, id)
	renewed.wantKooDrive(t, 200, 0)
	if want := `{"code":0,"msg":"success"}`; renewed.Body != want {
		t.Errorf("renewal answers %s; want %s", renewed.Body, want)
	}
	b.clock.Advance(9 * time.Minute)
	if got := b.Locks(user); len(got) != 1 || got[0].LockID != id || got[0].ModuleCode != "102" {
		t.Errorf("held are %+v; want the renewed lock", got)
	}
	b.clock.Advance(time.Minute)
	if got := b.Locks(user); len(got) != 0 {
		t.Errorf("held are %+v; want none ten minutes after the renewal", got)
	}
	b.lockCall(http.MethodPatch, id).wantKooDrive(t, 404, 13000309)
	b.lockCall(http.MethodDelete, id).wantKooDrive(t, 404, 13000309)
	if st := b.Stats(); st.Locked != 1 || st.Renewed != 1 || st.Released != 0 {
		t.Errorf("stats are %+v; want one lock taken and renewed", st)
	}
}

func TestRelease_OnlyOnce(t *testing.T) {
	t.Parallel()
	b := setup(t, simulator.Config{GoneStatus: 200})
	taken := data[struct{ LockID string }](t, b.do(http.MethodPost, prefix+"/lock", `{"moduleCode":"100"}`)).LockID
	added := "78e41c7e-db02-4d55-85b3-8153e4fefd2e@101"
	b.AddLock(user, added, b.clock.Now().Add(time.Second))
	b.AddLock("u-2", "foreign@102", b.clock.Now().Add(time.Hour))
	for _, id := range []string{taken, added} {
		b.lockCall(http.MethodDelete, id).wantKooDrive(t, 200, 0)
		b.lockCall(http.MethodDelete, id).wantKooDrive(t, 200, 13000309)
	}
	b.lockCall(http.MethodDelete, "foreign@102").wantKooDrive(t, 200, 13000309)
	if got := b.Locks("u-2"); len(got) != 1 {
		t.Errorf("the other user holds %v; want his lock", got)
	}
	if st := b.Stats(); st.Released != 2 || st.Requests["release"] != 5 {
		t.Errorf("stats are %+v; want two of five releases done", st)
	}
}

func TestLock_UnknownModule(t *testing.T) {
	t.Parallel()
	b := setup(t, simulator.Config{})
	for _, body := range []string{``, `{}`, `{"moduleCode":102}`, `{"moduleCode":"103"}`} {
		b.do(http.MethodPost, prefix+"/lock", body).wantKooDrive(t, 400, 13000102)
	}
}
