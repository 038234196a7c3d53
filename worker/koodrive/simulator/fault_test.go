package simulator_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kooworker/kooworker/worker/koodrive/answers"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

func TestFault_EveryNamedAnswer(t *testing.T) {
	t.Parallel()
	for _, want := range answers.All() {
		t.Run(want.Name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, simulator.Config{Faults: faults(t, want.Name)})
			b.Bind(user, simulator.Device{DeviceID: "d-1"})
			got := b.unbind("d-1")
			if got.Status != want.Status || got.Body != want.Body {
				t.Errorf("answer is %d %q; want %d %q", got.Status, got.Body, want.Status, want.Body)
			}
			for name := range want.Header {
				if got.Header.Get(name) != want.Header.Get(name) {
					t.Errorf("%s is %q; want %q", name, got.Header.Get(name), want.Header.Get(name))
				}
			}
			if got.Header.Get("Date") != "Sat, 31 Jan 2026 08:30:00 GMT" {
				t.Errorf("Date is %q; want the simulator's clock", got.Header.Get("Date"))
			}
			if len(b.Devices(user)) != 1 {
				t.Error("the device was unbound; want a named answer to leave it bound")
			}
			if st := b.Stats(); st.Faults[want.Name] != 1 || st.Answers[want.Status] != 1 {
				t.Errorf("stats are %+v; want the fault and its status counted", st)
			}
		})
	}
}

func TestFault_FixedAnswer(t *testing.T) {
	t.Parallel()
	b := setup(t, simulator.Config{Faults: faults(t, `status=503,retry-after=1500ms,header.X-Cache=MISS,body={"code":1,"msg":"a, b"}`)})
	got := b.unbind("d")
	got.wantKooDrive(t, 503, 1)
	for name, want := range map[string]string{"Retry-After": "2", "X-Cache": "MISS", "Content-Type": "application/json"} {
		if got.Header.Get(name) != want {
			t.Errorf("%s is %q; want %q", name, got.Header.Get(name), want)
		}
	}
	if st := b.Stats(); st.Faults["status-503"] != 1 {
		t.Errorf("faults served are %v; want status-503", st.Faults)
	}
}

func TestFaultPlan_FirstMatchApplies(t *testing.T) {
	t.Parallel()
	b := setup(t, simulator.Config{Faults: faults(t,
		"forbidden,call=unbind,target=vip-*",
		"throttled,call=unbind,user=u-1,times=1",
		"upstream-500,user=u-[12],name=outage",
	)})
	device := b.Bind(user, simulator.Device{})
	b.unbind("vip-1").wantKooDrive(t, 403, 13000410)
	b.unbind(device.DeviceID).wantKooDrive(t, 429, 13000429)
	b.unbind(device.DeviceID).wantKooDrive(t, 500, 13000201)
	b.do(http.MethodGet, "/elsewhere", "").wantKooDrive(t, 500, 13000201)
	r := b.request(http.MethodGet, prefix+"/device", "")
	r.Header.Set("X-User-Id", "u-3")
	b.mustSend(r).wantKooDrive(t, 200, 0)
	if st := b.Stats(); st.Faults["outage"] != 2 || st.Faults["throttled"] != 1 || st.Faults["forbidden"] != 1 {
		t.Errorf("faults served are %v; want outage twice, throttled and forbidden once", st.Faults)
	}
	b.ClearFaults()
	b.unbind(device.DeviceID).wantKooDrive(t, 200, 0)
}

func TestFaultPlan_TimesPerTarget(t *testing.T) {
	t.Parallel()
	b := setup(t, simulator.Config{Faults: faults(t, "upstream-200,call=unbind,times=2,per-target")})
	for _, id := range []string{"d-1", "d-2"} {
		b.Bind(user, simulator.Device{DeviceID: id})
	}
	for _, code := range []int{13000201, 13000201, 0} {
		for _, id := range []string{"d-1", "d-2"} {
			b.unbind(id).wantKooDrive(t, 200, code)
		}
	}
	t.Log("another user's device of the same id is another target")
	r := b.request(http.MethodDelete, prefix+"/device/d-1", "")
	r.Header.Set("X-User-Id", "u-2")
	b.mustSend(r).wantKooDrive(t, 200, 13000201)
}

func TestFaultPlan_MatchesLockID(t *testing.T) {
	t.Parallel()
	b := setup(t, simulator.Config{Faults: faults(t, "forbidden,call=release,target=*@101")})
	for _, id := range []string{"l@101", "l@102"} {
		b.AddLock(user, id, b.clock.Now().Add(time.Minute))
	}
	b.lockCall(http.MethodDelete, "l@101").wantKooDrive(t, 403, 13000410)
	b.lockCall(http.MethodDelete, "l@102").wantKooDrive(t, 200, 0)
}

func TestFaultPlan_RateRepeatsWithSeed(t *testing.T) {
	t.Parallel()
	run := func() (hits []bool) {
		b := setup(t, simulator.Config{Seed: 7, Faults: faults(t, "throttled,rate=0.3")})
		for range 1000 {
			w := httptest.NewRecorder()
			b.ServeHTTP(w, b.request(http.MethodGet, prefix+"/device", ""))
			hits = append(hits, w.Code == http.StatusTooManyRequests)
		}
		if got := b.Stats().Faults["throttled"]; got < 250 || got > 350 {
			t.Errorf("%d of 1000 were hit; want about 300", got)
		}
		return hits
	}
	if !slices.Equal(run(), run()) {
		t.Error("two runs with one seed hit different requests; want the same")
	}
}

func TestFault_Skew(t *testing.T) {
	t.Parallel()
	b := setup(t, simulator.Config{Faults: faults(t, "skew=-1m,times=1", "skew=20m,times=1", "skew=10m")})
	list := func() answer { return b.do(http.MethodGet, prefix+"/device", "") }
	behind := list()
	behind.wantKooDrive(t, 400, 13000499)
	if got, want := behind.Header.Get("Date"), "Sat, 31 Jan 2026 08:29:00 GMT"; got != want {
		t.Errorf("Date is %q; want %q", got, want)
	}
	list().wantKooDrive(t, 400, 13000499)
	within := list()
	within.wantKooDrive(t, 200, 0)
	if got, want := within.Header.Get("Date"), "Sat, 31 Jan 2026 08:40:00 GMT"; got != want {
		t.Errorf("Date is %q; want %q", got, want)
	}
}

// TestFault_SlowPerformsCallAtOnce runs without a server: in a synctest
// bubble time passes by itself, but not while a goroutine waits for the network.
func TestFault_SlowPerformsCallAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sim, err := simulator.New(simulator.Config{Faults: faults(t, "slow,delay=90s")})
		if err != nil {
			t.Fatal(err)
		}
		sim.Bind(user, simulator.Device{DeviceID: "d-1"})
		start, w := time.Now(), httptest.NewRecorder()
		done := make(chan struct{})
		go func() {
			defer close(done)
			sim.ServeHTTP(w, unbindRequest(t, start))
		}()
		synctest.Wait()
		if st := sim.Stats(); st.Unbound != 1 || st.InFlight != 1 || len(st.Answers) != 0 {
			t.Errorf("stats are %+v during the delay; want the call performed and no answer yet", st)
		}
		<-done
		if got := time.Since(start); got != 90*time.Second || w.Code != http.StatusOK {
			t.Errorf("answered %d after %v; want 200 after 90s", w.Code, got)
		}
	})
}

func unbindRequest(t *testing.T, now time.Time) *http.Request {
	t.Helper()
	r := httptest.NewRequest(http.MethodDelete, prefix+"/device/d-1", strings.NewReader(""))
	r.Header.Set("X-User-Id", user)
	r.Header.Set("X-Date", now.UTC().Format("20060102T150405Z"))
	return r
}

func TestAddFault_Refuses(t *testing.T) {
	t.Parallel()
	b := setup(t, simulator.Config{})
	for want, f := range map[string]simulator.Fault{
		"does nothing":           {},
		"reset-before, reset-af": {Kind: "explode"}, // the list of what is known
		"exclude":                {Kind: "forbidden", Status: 403},
		"status is 99":           {Status: 99},
		"carries a body":         {Status: 304},
		"body needs":             {Kind: "forbidden", Body: "x"},
		"slow needs":             {Kind: simulator.KindSlow},
		"hang lasts":             {Kind: simulator.KindHang, Delay: 1},
		"delay is":               {Delay: -1},
		"retry-after is":         {Kind: "throttled", RetryAfter: -1},
		"no answer":              {Kind: simulator.KindResetAfter, RetryAfter: 1},
		"rate is":                {Kind: "forbidden", Rate: 1.1},
		"times is":               {Kind: "forbidden", Times: -1},
		"per-target needs":       {Kind: "forbidden", PerTarget: true},
		"unbind, release":        {Kind: "forbidden", Match: simulator.Match{Call: "delete"}},
		"pattern":                {Kind: "forbidden", Match: simulator.Match{Target: "["}},
		"misspelt":               {Kind: "forbidden", Header: http.Header{"x-a": {"b"}}},
		"frames":                 {Kind: "forbidden", Header: http.Header{"Content-Length": {"5"}}},
		"no value":               {Kind: "forbidden", Header: http.Header{"X-A": nil}},
		"control":                {Kind: "forbidden", Header: http.Header{"X-A": {"b\r\nX-B: c"}}},
	} {
		if err := b.AddFault(f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("AddFault(%+v) = %v; want an error with %q", f, err, want)
		}
	}
}
