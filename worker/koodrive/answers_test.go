package koodrive

import (
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/koodrive/answers"
)

func give(answer answers.Answer) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		maps.Copy(w.Header(), answer.Header)
		w.WriteHeader(answer.Status)
		_, _ = w.Write([]byte(answer.Body))
	}
}

// The answers come from a real server, so that everything between the socket and
// the table is tested.
func TestClient_EveryAnswerOfTheCatalogue(t *testing.T) {
	t.Parallel()
	for _, answer := range answers.All() {
		t.Run(answer.Name, func(t *testing.T) {
			t.Parallel()
			srv := serve(t, give(answer))
			c := connect(t, srv.URL, nil)
			checkAnswer(t, "unbind", c.Unbind(t.Context(), testUser, testDevice), answer)
			if answer.Name != "other-device" { // a release names no device
				checkAnswer(t, "release", c.Release(t.Context(), testUser, testLock), answer)
			}
			if answer.Reason == tasks.OK {
				return // a list must hold a list
			}
			if devices, got := c.Devices(t.Context(), testUser); got.Reason != answer.Reason || devices != nil {
				t.Errorf("devices: got %v with %v, want %s without devices", got, devices, answer.Reason)
			}
		})
	}
}

func checkAnswer(t *testing.T, call string, got Answer, want answers.Answer) {
	t.Helper()
	if got.Reason != want.Reason {
		t.Errorf("%s: got %v, want %s", call, got, want.Reason)
	}
	if got.Status != want.Status {
		t.Errorf("%s: got status %d, want %d", call, got.Status, want.Status)
	}
	if strings.ContainsAny(got.Error(), "\r\n") || !strings.HasPrefix(got.Error(), string(want.Reason)+": HTTP ") {
		t.Errorf("%s: got %q, want one line with reason and status", call, got.Error())
	}
	if done := want.Reason == tasks.OK || want.Reason == tasks.Gone; done != (got.Err() == nil) {
		t.Errorf("%s: %s has Err %v, want an error: %t", call, got.Reason, got.Err(), !done)
	}
	if asked := want.Header.Get("Retry-After") == "1"; asked != (got.RetryAfter == time.Second) {
		t.Errorf("%s: got RetryAfter %s, want 1s: %t", call, got.RetryAfter, asked)
	}
}

func TestAnswer_ErrorIsOneLine(t *testing.T) {
	t.Parallel()
	for want, a := range map[string]Answer{
		"forbidden: HTTP 403, code 13000410: no permission": {Reason: tasks.Forbidden, Status: 403, Code: "13000410", Message: "no permission"},
		"misrouted: HTTP 404":                               {Reason: tasks.Misrouted, Status: 404},
		"network: connection refused":                       {Reason: tasks.Network, Message: "connection refused"},
	} {
		if got := a.Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if got := string(a.Reason) + ": " + a.Detail(); got != want {
			t.Errorf("reason and detail: got %q, want %q", got, want)
		}
	}
}

func TestAnswer_Hint(t *testing.T) {
	t.Parallel()
	for _, r := range []tasks.Reason{tasks.Misrouted, tasks.Unauthorized, tasks.Forbidden, tasks.Network, tasks.TimedOut, tasks.Upstream} {
		if (Answer{Reason: r}).Hint() == "" {
			t.Errorf("%s has no hint, want one", r)
		}
	}
	for _, r := range []tasks.Reason{tasks.OK, tasks.Gone} {
		if hint := (Answer{Reason: r}).Hint(); hint != "" {
			t.Errorf("%s has the hint %q, want none", r, hint)
		}
	}
}

func TestClassify_AdditionsGoFirst(t *testing.T) {
	t.Parallel()
	reasons, err := ParseReasons([]string{"13000999=invalid", "APIGW.0999=throttled", "13000309=rejected", "13000598=already_gone"})
	if err != nil {
		t.Fatal(err)
	}
	for body, want := range map[string]tasks.Reason{
		`{"code":13000999,"msg":""}`:                 tasks.Invalid,
		`{"error_code":"APIG.0999","error_msg":""}`:  tasks.Throttled,
		`{"error_code":"APIGW.0999","error_msg":""}`: tasks.Throttled,
		`{"code":"13000309","msg":""}`:               tasks.Rejected,
		`{"code":13000598,"msg":""}`:                 tasks.Gone,
		`{"code":13000410,"msg":""}`:                 tasks.Forbidden,
		`{"code":0,"msg":""}`:                        tasks.OK,
	} {
		c := connect(t, serve(t, say(200, body)).URL, func(cfg *Config) { cfg.Reasons = reasons })
		if got := c.Release(t.Context(), testUser, testLock); got.Reason != want {
			t.Errorf("%s: got %v, want %s", body, got, want)
		}
	}
}

func TestClassify_BeyondTheCatalogue(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		status int
		body   string
		want   tasks.Reason
	}{
		{200, ` { "code" : 0 , "msg" : "success" } ` + "\n", tasks.OK},
		{200, `{"code":0}`, tasks.OK},
		{200, `{"code":0,"msg":7}`, tasks.OK},
		{201, `{"code":0}`, tasks.Protocol},
		{202, `{"code":13000999,"msg":"x"}`, tasks.Protocol},
		{200, `{"Code":0}`, tasks.Protocol},
		{200, `{"code":-0}`, tasks.Protocol},
		{200, `{"code":0.0}`, tasks.Protocol},
		{200, `{"code":0e0}`, tasks.Protocol},
		{200, `{"code":[0]}`, tasks.Protocol},
		{200, `{"code":"00"}`, tasks.Rejected},
		{200, `{"code":-1}`, tasks.Rejected},
		{200, `{"code":" 0"}`, tasks.Protocol},
		{200, `{"code":0,"code":13000410}`, tasks.Protocol},
		{200, `{"code":0,"data":{"deviceId":"d-1","deviceId":"d-2"}}`, tasks.Protocol},
		{200, `{"code":0,"\u0063ode":13000410}`, tasks.Protocol},
		{200, `{"code":0,"msg":"caf` + "\xe9" + `"}`, tasks.OK},
		{200, `{"code":0,"msg":"\ud800"}`, tasks.OK},
		{200, `{"code":0,"error_code":"APIG.0301"}`, tasks.Protocol},
		{200, `{"code":0} trailing`, tasks.Protocol},
		{200, "\ufeff" + `{"code":0}`, tasks.Protocol},
		{200, `{"error_code":"APIG.9999","error_msg":"x"}`, tasks.Rejected},
		{404, `{"code":13000399}`, tasks.Misrouted},            // no msg: not certainly KooDrive's
		{404, `{"code":130003990,"msg":"x"}`, tasks.Misrouted}, // nine digits
		{404, `{"code":"404","msg":"x"}`, tasks.Misrouted},
		{410, `{"code":0,"msg":"x"}`, tasks.Misrouted},
		{404, `{"error_code":"IAM.0004","error_msg":"x"}`, tasks.Misrouted},
		{405, `{"code":405,"msg":"x"}`, tasks.Misrouted},
		{405, `{"code":13000999,"msg":"x"}`, tasks.Rejected},
		{407, ``, tasks.Misrouted},
		{421, ``, tasks.Misrouted},
		{501, ``, tasks.Misrouted},
		{501, `{"code":13000999,"msg":"x"}`, tasks.Upstream},
		{302, `{"code":0,"msg":"success"}`, tasks.Misrouted},
		{401, `{"code":0,"msg":"success"}`, tasks.Unauthorized},
		{403, `{"code":0,"msg":"success"}`, tasks.Misrouted},
		{403, `{"code":13000499}`, tasks.Misrouted}, // no msg: not certainly KooDrive's
		{403, `{"code":13000410}`, tasks.Forbidden},
		{403, `{"error_code":"APIG.0307","error_msg":"x"}`, tasks.Unauthorized},
		{403, `{"error_code":"IAM.0011","error_msg":"x"}`, tasks.Misrouted},
		{403, `<html>Invalid token</html>`, tasks.Misrouted},
		{408, ``, tasks.TimedOut},
		{400, ``, tasks.Rejected},
		{400, `{"code":0,"msg":"success"}`, tasks.Rejected},
		{400, `{"code":13000101,"msg":"token is not a parameter"}`, tasks.Invalid},
		{400, `{"code":13000999,"msg":"X-Date is later than now"}`, tasks.Unauthorized},
		{400, `{"error_code":"APIG.0999","error_msg":"bad SIGNATURE"}`, tasks.Unauthorized},
		{400, strings.Repeat(" ", 1024) + "token", tasks.Rejected},
		{422, "token", tasks.Rejected},
		{500, `{"code":13000410,"msg":"x"}`, tasks.Forbidden},
		{200, `{"error_code":"apig.0699","error_msg":"x"}`, tasks.Upstream},
		{999, ``, tasks.Protocol},
	} {
		if got := classify(table, tc.status, readEnvelope([]byte(tc.body))); got != tc.want {
			t.Errorf("%d %.80s: got %s, want %s", tc.status, tc.body, got, tc.want)
		}
	}
}

func TestUnbind_AnswerNamesADevice(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]struct {
		reason tasks.Reason
		named  bool
	}{
		`{"code":0}`:               {tasks.OK, false},
		`{"code":0,"data":null}`:   {tasks.OK, false},
		`{"code":0,"data":{}}`:     {tasks.OK, false},
		`{"code":0,"data":"done"}`: {tasks.OK, false},
		`{"code":0,"data":{"deviceId":"` + testDevice + `","createTime":"2025-09-15T06:14:48.630Z","deviceName":7}}`: {tasks.OK, true},
		`{"code":0,"data":{"deviceId":` + testDevice + `,"createTime":"yesterday"}}`:                                 {tasks.OK, true},
		`{"code":0,"data":{"deviceId":1775406005920779394}}`:                                                         {tasks.Protocol, false},
	} {
		c := connect(t, serve(t, say(200, body)).URL, nil)
		got := c.Unbind(t.Context(), testUser, testDevice)
		if got.Reason != want.reason || (got.Device != nil) != want.named {
			t.Errorf("%s: got %v and device %v, want %s and a device: %t", body, got, got.Device, want.reason, want.named)
		}
	}
}

func TestDevices_UnclearList(t *testing.T) {
	t.Parallel()
	const device = `{"deviceId":"d-1","machineCode":"m","deviceName":"n","deviceOS":"android","createTime":"2025-09-15T06:14:48.630Z"}`
	for body, want := range map[string]struct {
		reason tasks.Reason
		count  int
	}{
		`{"code":0,"data":[` + device + `,{"deviceId":7}]}`: {tasks.OK, 2},
		`{"code":0,"data":[]}`:                              {tasks.OK, 0},
		`{"code":0,"data":null}`:                            {tasks.OK, 0},
		`{"code":0}`:                                        {tasks.Protocol, 0},
		`{"code":0,"data":{}}`:                              {tasks.Protocol, 0},
		`{"code":0,"data":[{}]}`:                            {tasks.Protocol, 0},
		`{"code":0,"data":["d-1"]}`:                         {tasks.Protocol, 0},
		`{"code":0,"data":[{"deviceId":"d","createTime":"recently"}]}`: {tasks.Protocol, 0},
	} {
		c := connect(t, serve(t, say(200, body)).URL, nil)
		devices, got := c.Devices(t.Context(), testUser)
		if got.Reason != want.reason || len(devices) != want.count {
			t.Errorf("%s: got %v with %d devices, want %s with %d", body, got, len(devices), want.reason, want.count)
		}
		if want.count == 2 && !devices[0].CreateTime.Equal(time.Date(2025, 9, 15, 6, 14, 48, 630e6, time.UTC)) {
			t.Errorf("got createTime %s, want that of the answer", devices[0].CreateTime)
		}
	}
}

func TestAnswer_ReasonOnly(t *testing.T) {
	t.Parallel()
	a := Answer{Reason: tasks.TimedOut}
	if a.Error() != string(tasks.TimedOut) || a.Detail() != "" {
		t.Errorf("got %q with detail %q, want the reason without detail", a.Error(), a.Detail())
	}
}
