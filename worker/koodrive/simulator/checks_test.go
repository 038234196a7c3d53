package simulator_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

func TestAnswer_UnknownPathOrMethod(t *testing.T) {
	t.Parallel()
	b := setup(t, simulator.Config{Auth: simulator.Auth{Mode: simulator.AuthToken}})
	for _, tc := range []struct{ method, path string }{
		{http.MethodGet, "/"},
		{http.MethodDelete, "/koodrive/ose/v2/backup/device/d"},
		{http.MethodDelete, prefix + "/devices/d"},
		{http.MethodDelete, prefix + "/device/d/"},
		{http.MethodDelete, prefix + "/device/a/b"},
		{http.MethodDelete, prefix + "/lock/"},
		{http.MethodDelete, prefix + "/device"},
		{http.MethodGet, prefix + "/device/d"},
		{http.MethodPut, prefix + "/lock"},
	} {
		b.do(tc.method, tc.path, "").wantGateway(t, 404, "APIG.0101")
	}
	if st := b.Stats(); st.Requests["other"] != 9 || st.AuthRefusals != 0 {
		t.Errorf("stats are %+v; want nine other requests, none judged by its credential", st)
	}
}

func TestAnswer_BadParameters(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		method, path, body string
		change             func(http.Header)
		code               int
	}{
		"no user":          {http.MethodGet, "/device", "", func(h http.Header) { h.Del("X-User-Id") }, 13000102},
		"two users":        {http.MethodGet, "/device", "", func(h http.Header) { h.Add("X-User-Id", "u-2") }, 13000102},
		"empty device":     {http.MethodDelete, "/device/", "", nil, 13000102},
		"escaped slash":    {http.MethodDelete, "/device/a%2Fb", "", nil, 13000102},
		"long device":      {http.MethodDelete, "/device/" + strings.Repeat("7", 65), "", nil, 13000102},
		"no lock":          {http.MethodDelete, "/lock", "", nil, 13000102},
		"malformed lock":   {http.MethodDelete, "/lock", "", func(h http.Header) { h.Set("X-Backup-Lock-Id", "a@b") }, 13000102},
		"no lock, renew":   {http.MethodPatch, "/lock", "", nil, 13000102},
		"short trace":      {http.MethodGet, "/device", "", func(h http.Header) { h.Set("X-Traceid", "abc") }, 13000102},
		"body of a GET":    {http.MethodGet, "/device", "{}", nil, 13000101},
		"body of a DELETE": {http.MethodDelete, "/device/d", "{}", nil, 13000101},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, simulator.Config{})
			r := b.request(tc.method, prefix+tc.path, tc.body)
			if tc.change != nil {
				tc.change(r.Header)
			}
			b.mustSend(r).wantKooDrive(t, 400, tc.code)
		})
	}
}

func TestAnswer_OptionalTraceID(t *testing.T) {
	t.Parallel()
	b := setup(t, simulator.Config{})
	r := b.request(http.MethodGet, prefix+"/device", "")
	r.Header.Set("X-Traceid", strings.Repeat("a", 58))
	b.mustSend(r).wantKooDrive(t, 200, 0)
}

func TestUnbind_EscapedDeviceID(t *testing.T) {
	t.Parallel()
	b := setup(t, simulator.Config{})
	b.Bind(user, simulator.Device{DeviceID: "a-1"})
	b.unbind("%61%2D1").wantKooDrive(t, 200, 0)
}

func TestAnswer_BodyTooLarge(t *testing.T) {
	t.Parallel()
	b := setup(t, simulator.Config{})
	body := `{"machineCode":"m","deviceName":"` + strings.Repeat("x", 1<<17) + `"}`
	b.do(http.MethodPost, prefix+"/device", body).wantGateway(t, 413, "APIG.0201")
}

func TestAnswer_DateWindow(t *testing.T) {
	t.Parallel()
	b := setup(t, simulator.Config{})
	for _, tc := range []struct {
		offset time.Duration
		ok     bool
	}{
		{0, true},
		{-15*time.Minute + time.Second, true},
		{-15*time.Minute - time.Second, false},
		{time.Second, false},
		{15 * time.Minute, false},
	} {
		r := b.request(http.MethodGet, prefix+"/device", "")
		r.Header.Set("X-Date", b.clock.Now().Add(tc.offset).Format("20060102T150405Z"))
		wantDate(t, b.mustSend(r), tc.ok)
	}
	for _, value := range []string{"", "2026-01-31T08:30:00Z", "20260131T083000", "20260131T083000+0000"} {
		r := b.request(http.MethodGet, prefix+"/device", "")
		r.Header.Set("X-Date", value)
		wantDate(t, b.mustSend(r), false)
	}
	if got := b.Stats().AuthRefusals; got != 7 {
		t.Errorf("stats count %d refusals; want 7", got)
	}
}

func wantDate(t *testing.T, a answer, ok bool) {
	t.Helper()
	if ok {
		a.wantKooDrive(t, 200, 0)
		return
	}
	a.wantKooDrive(t, 400, 13000499)
	if !strings.Contains(a.Msg, "authentication") || !strings.Contains(a.Msg, "x-date") {
		t.Errorf("message is %q; want it to name authentication and x-date", a.Msg)
	}
}

func TestRateLimit_FollowsClock(t *testing.T) {
	t.Parallel()
	b := setup(t, simulator.Config{RateLimit: 2})
	list := func() answer { return b.do(http.MethodGet, prefix+"/device", "") }
	list().wantKooDrive(t, 200, 0)
	list().wantKooDrive(t, 200, 0)
	refused := list()
	refused.wantGateway(t, 429, "APIG.0308")
	if got := refused.Header.Get("Retry-After"); got != "1" {
		t.Errorf("Retry-After is %q; want 1", got)
	}
	b.clock.Advance(time.Second)
	list().wantKooDrive(t, 200, 0)
	if got := b.Stats().Throttled; got != 1 {
		t.Errorf("stats count %d throttled; want 1", got)
	}
}

func TestNew_NamesWrongSetting(t *testing.T) {
	t.Parallel()
	for want, cfg := range map[string]simulator.Config{
		"authorization": {Auth: simulator.Auth{Mode: "basic"}},
		"token format":  {Auth: simulator.Auth{Mode: simulator.AuthToken, TokenFormat: "Bearer"}},
		"secret":        {Auth: simulator.Auth{Mode: simulator.AuthApp, AppID: "a"}},
		"gone":          {GoneStatus: 204},
		"rate limit":    {RateLimit: -1},
		"quota 1":       {Quotas: []simulator.Quota{{}}},
		"fault 1":       {Faults: []simulator.Fault{{}}},
	} {
		if _, err := simulator.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New(%+v) = %v; want an error that names %q", cfg, err, want)
		}
	}
}
