package simulator_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

func TestLog_LastRequestsWithoutCredentials(t *testing.T) {
	t.Parallel()
	const secret = "s3cret"
	b := setup(t, simulator.Config{Auth: simulator.Auth{Mode: simulator.AuthToken}, Faults: faults(t, "forbidden,target=d-2500")})
	for i := range 2501 {
		r := b.request(http.MethodDelete, fmt.Sprintf("%s/device/d-%d?token=%s", prefix, i, secret), secret)
		r.Header.Set("Authorization", "Bearer+"+secret)
		b.ServeHTTP(httptest.NewRecorder(), r)
	}
	log := b.Log(0)
	if len(log) != 1000 || log[0].Target != "d-1501" || len(b.Log(2)) != 2 || b.Log(2)[0].Target != "d-2499" {
		t.Fatalf("log has %d entries, at its end %+v; want the last 1000 requests, oldest first", len(log), b.Log(2))
	}
	want := simulator.Entry{
		At: b.clock.Now(), Method: "DELETE", Path: prefix + "/device/d-2500", Call: "unbind", UserID: user,
		XDate: "20260131T083000Z", Target: "d-2500", Fault: "forbidden", Status: 403,
	}
	if diff := cmp.Diff(want, log[999]); diff != "" {
		t.Errorf("last entry (-want +got):\n%s", diff)
	}
	if text := fmt.Sprintf("%+v %+v", log, b.Stats()); strings.Contains(text, secret) {
		t.Error("the log or the stats hold a credential; want none")
	}
}

func TestServeHTTP_ConcurrentCallers(t *testing.T) {
	t.Parallel()
	const callers, each = 16, 50
	sim, err := simulator.New(simulator.Config{Faults: faults(t, "throttled,times=1,per-target", "slow,delay=1us,rate=0.1")})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(sim)
	t.Cleanup(server.Close)
	var group sync.WaitGroup
	for c := range callers {
		group.Go(func() {
			owner := fmt.Sprintf("u-%d", c)
			for range each {
				d := sim.Bind(owner, simulator.Device{})
				for _, want := range []int{429, 200, 404} {
					r, err := http.NewRequest(http.MethodDelete, server.URL+prefix+"/device/"+d.DeviceID, http.NoBody)
					if err != nil {
						t.Error(err)
						return
					}
					r.Header.Set("X-User-Id", owner)
					r.Header.Set("X-Date", time.Now().UTC().Format("20060102T150405Z"))
					resp, err := server.Client().Do(r)
					if err != nil {
						t.Error(err)
						return
					}
					_ = resp.Body.Close()
					if resp.StatusCode != want {
						t.Errorf("unbind answers %d; want %d", resp.StatusCode, want)
					}
				}
			}
			_, _ = sim.Stats(), sim.Log(10)
		})
	}
	group.Wait()
	st := sim.Stats()
	if st.Unbound != callers*each || st.Requests["unbind"] != 3*callers*each || st.Answers[429] != callers*each {
		t.Errorf("stats are %+v; want %d unbound of three requests each", st, callers*each)
	}
	if st.PeakInFlight < 1 || st.PeakInFlight > callers {
		t.Errorf("at most %d were in flight; want 1 to %d", st.PeakInFlight, callers)
	}
	eventually(t, "no request is in flight", func() bool { return sim.Stats().InFlight == 0 })
}
