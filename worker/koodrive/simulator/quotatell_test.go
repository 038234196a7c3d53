package simulator_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// refusalText is the error_msg of a refusal.
func refusalText(t *testing.T, body []byte) string {
	t.Helper()
	var got struct {
		Code string `json:"error_code"`
		Msg  string `json:"error_msg"`
		ID   string `json:"request_id"`
	}
	if err := json.Unmarshal(body, &got); err != nil || got.Code != "APIG.0308" || len(got.ID) != 32 {
		t.Errorf("refused with %s; want APIG.0308 and a request_id", body)
	}
	return got.Msg
}

func TestQuota_Text(t *testing.T) {
	t.Parallel()
	const silent = "The throttling threshold has been reached"
	for text, want := range map[string]string{
		"fixed:0/s":                       silent,
		"fixed:0/s,tell=debug":            silent,
		"fixed:0/s,tell=text":             silent + ": policy api over ratelimit,limit:0,time:1 second",
		"bucket:0/10s,tell=text":          silent + ": policy api over ratelimit,limit:0,time:10 second",
		"sliding:0/60s,tell=text":         silent + ": policy api over ratelimit,limit:0,time:1 minute",
		"fixed:0/5m,tell=text":            silent + ": policy api over ratelimit,limit:0,time:5 minute",
		"fixed:0/90m,tell=text":           silent + ": policy api over ratelimit,limit:0,time:90 minute",
		"fixed:0/24h,tell=debug+text":     silent + ": policy api over ratelimit,limit:0,time:1 day",
		"fixed:0/7d,tell=text":            silent + ": policy api over ratelimit,limit:0,time:7 day",
		"fixed:0/h,policy=user,tell=text": silent + ": policy user over ratelimit,limit:0,time:1 hour",
		// What is told is the limit that is in force.
		"fixed:3000/m,tell=text,policy=api-allenv,at=1ns:0": silent + ": policy api-allenv over ratelimit,limit:0,time:1 minute",
	} {
		c := &clock{now: time.Date(2026, 1, 31, 8, 30, 0, 0, time.UTC)}
		sim := quotaSimulator(t, c.Now, text)
		c.Advance(1)
		w := listCall(sim, user, c.Now(), "X-Apig-Mode", "debug")
		if got := refusalText(t, w.Body.Bytes()); w.Code != http.StatusTooManyRequests || got != want {
			t.Errorf("%s: answer is %d %q; want 429 %q", text, w.Code, got, want)
		}
	}
}

func TestQuota_Headers(t *testing.T) {
	t.Parallel()
	names := []string{
		"X-Apig-RateLimit-api", "X-Apig-RateLimit-user", "RateLimit-Policy", "RateLimit",
		"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "Retry-After",
	}
	for _, tc := range []struct {
		quotas []string
		mode   string // X-Apig-Mode
		calls  []map[string]string
	}{
		{quotas: []string{"fixed:1/m"}, mode: "debug", calls: []map[string]string{{}, {}}},
		{quotas: []string{"fixed:1/m,tell=text+debug"}, mode: "other", calls: []map[string]string{{}, {}}},
		{quotas: []string{"fixed:2/10s,tell=debug"}, mode: "debug", calls: []map[string]string{
			{"X-Apig-RateLimit-api": "remain:1,limit:2,time:10 second"},
			{"X-Apig-RateLimit-api": "remain:0,limit:2,time:10 second"},
			{"X-Apig-RateLimit-api": "remain:0,limit:2,time:10 second"},
		}},
		// It is 08:30:05.5: the minute has 54.5 s left.
		{quotas: []string{"fixed:1/m,tell=ratelimit+x-ratelimit,name=x"}, calls: []map[string]string{
			{
				"RateLimit-Policy": `"x";q=1;w=60`, "RateLimit": `"x";r=0;t=55`,
				"X-RateLimit-Limit": "1", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "55",
			},
			{ // refused
				"RateLimit-Policy": `"x";q=1;w=60`, "RateLimit": `"x";r=0;t=55`,
				"X-RateLimit-Limit": "1", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "55",
			},
		}},
		{quotas: []string{"fixed:1/m,tell=x-ratelimit-epoch,retry-after=auto"}, calls: []map[string]string{
			{"X-RateLimit-Limit": "1", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1769848260"},
			{"X-RateLimit-Limit": "1", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1769848260", "Retry-After": "55"},
		}},
		{quotas: []string{"sliding:1/m,retry-after=auto"}, calls: []map[string]string{{}, {"Retry-After": "60"}}},
		{quotas: []string{"bucket:30/m,burst=1,retry-after=auto"}, calls: []map[string]string{{}, {"Retry-After": "2"}}},
		{quotas: []string{"fixed:0/s,retry-after=1500ms"}, calls: []map[string]string{{"Retry-After": "2"}}},
		{quotas: []string{"fixed:0/s,retry-after-date=30s"}, calls: []map[string]string{{"Retry-After": "Sat, 31 Jan 2026 08:30:36 GMT"}}},
		{quotas: []string{"fixed:0/m,retry-after-date=auto"}, calls: []map[string]string{{"Retry-After": "Sat, 31 Jan 2026 08:31:00 GMT"}}},
		{quotas: []string{"bucket:8/s,tell=debug+ratelimit+x-ratelimit,name=all", "fixed:4/h,tell=debug+ratelimit+x-ratelimit,policy=user"}, mode: "debug", calls: []map[string]string{
			{
				"X-Apig-RateLimit-api": "remain:7,limit:8,time:1 second", "X-Apig-RateLimit-user": "remain:3,limit:4,time:1 hour",
				"RateLimit-Policy": `"all";q=8;w=1, "user";q=4;w=3600`, "RateLimit": `"all";r=7;t=1, "user";r=3;t=1795`,
				"X-RateLimit-Limit": "4", "X-RateLimit-Remaining": "3", "X-RateLimit-Reset": "1795",
			},
		}},
	} {
		c := &clock{now: time.Date(2026, 1, 31, 8, 30, 5, 5e8, time.UTC)}
		sim := quotaSimulator(t, c.Now, tc.quotas...)
		for i, want := range tc.calls {
			w := listCall(sim, user, c.Now(), "X-Apig-Mode", tc.mode)
			got := make(map[string]string)
			for _, name := range names {
				if values := w.Header().Values(name); len(values) > 0 {
					got[name] = strings.Join(values, " | ")
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%v, call %d (-want +got):\n%s", tc.quotas, i+1, diff)
			}
		}
	}
}

// statuses makes calls and returns how each was answered.
func statuses(sim *simulator.Simulator, c *clock, calls ...[3]string) (got []int) {
	for _, method := range calls {
		got = append(got, call(sim, method[0], method[1], method[2], c.Now()).Code)
	}
	return got
}

func TestQuota_WhatCountsTogether(t *testing.T) {
	t.Parallel()
	var (
		list    = [3]string{http.MethodGet, "/device", "u-1"}
		unbind  = [3]string{http.MethodDelete, "/device/d", "u-1"}
		release = [3]string{http.MethodDelete, "/lock", "u-1"} // names no lock
		other   = [3]string{http.MethodGet, "/device", "u-2"}
		bad     = [3]string{http.MethodGet, "/device", "bad-7"}
	)
	for _, tc := range []struct {
		quotas []string
		calls  [][3]string
		want   []int
	}{
		{[]string{"fixed:2/h"}, [][3]string{list, unbind, release, other}, []int{200, 404, 429, 429}},
		{[]string{"fixed:1/h,per-call"}, [][3]string{list, unbind, release, other, unbind}, []int{200, 404, 400, 429, 429}},
		{[]string{"fixed:1/h,per-user"}, [][3]string{list, unbind, other, other}, []int{200, 429, 200, 429}},
		{[]string{"fixed:1/h,per-user,per-call"}, [][3]string{list, unbind, other, list, unbind}, []int{200, 404, 200, 429, 429}},
		{[]string{"fixed:1/h,call=unbind", "fixed:2/h,call=list"}, [][3]string{unbind, unbind, list, list, list, release}, []int{404, 429, 200, 200, 429, 400}},
		{[]string{"fixed:0/s,user=bad-*,retry-after=30s"}, [][3]string{bad, list, bad, other}, []int{429, 200, 429, 200}},
		// What one quota refuses uses up nothing of another.
		{[]string{"fixed:0/s,user=bad-*", "fixed:1/h"}, [][3]string{bad, bad, list, list}, []int{429, 429, 200, 429}},
		{[]string{"fixed:1/h", "fixed:0/s,user=bad-*"}, [][3]string{bad, bad, list, list}, []int{429, 429, 200, 429}},
	} {
		c := &clock{now: time.Date(2026, 1, 31, 8, 30, 0, 0, time.UTC)}
		sim := quotaSimulator(t, c.Now, tc.quotas...)
		if diff := cmp.Diff(tc.want, statuses(sim, c, tc.calls...)); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tc.quotas, diff)
		}
	}
}

func TestQuota_StatsAndLogNameIt(t *testing.T) {
	t.Parallel()
	c := &clock{now: time.Date(2026, 1, 31, 8, 30, 0, 0, time.UTC)}
	sim := quotaSimulator(t, c.Now, "fixed:0/s,user=bad", "fixed:3/h", "fixed:1/h,call=unbind", "fixed:9/h,name=x,foreign=4")
	statuses(sim, c, [3]string{"GET", "/device", "bad"}, [3]string{"DELETE", "/device/d", "u"}, [3]string{"DELETE", "/device/d", "u"})
	c.Advance(15 * time.Minute)
	want := map[string]simulator.QuotaCount{
		"api": {Refused: 1}, "api-2": {Granted: 1}, "api-unbind": {Granted: 1, Refused: 1}, "x": {Granted: 1, ForeignGranted: 1},
	}
	st := sim.Stats()
	if diff := cmp.Diff(want, st.Quotas); diff != "" || st.Throttled != 2 || st.Answers[429] != 2 {
		t.Errorf("stats are %+v; want 2 throttled, and (-want +got):\n%s", st, diff)
	}
	for i, want := range []string{"api", "", "api-unbind"} {
		if got := sim.Log(0)[i].Quota; got != want {
			t.Errorf("request %d was refused by %q; want %q", i+1, got, want)
		}
	}
	sim.ClearQuotas()
	if got := statuses(sim, c, [3]string{"GET", "/device", "bad"}); got[0] != 200 {
		t.Errorf("without quotas the answer is %d; want 200", got[0])
	}
	if diff := cmp.Diff(want, sim.Stats().Quotas); diff != "" {
		t.Errorf("counts after ClearQuotas (-want +got):\n%s", diff)
	}
}

// A fault's answer is shared by all requests that get it: what a quota tells one of
// them must not reach another.
func TestQuota_HeadersOnFaultsAnswer(t *testing.T) {
	t.Parallel()
	c := &clock{now: time.Date(2026, 1, 31, 8, 30, 0, 0, time.UTC)}
	sim := quotaSimulator(t, c.Now, "fixed:9/h,tell=debug")
	if err := sim.AddFault(faults(t, "upstream-500")[0]); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"remain:8,limit:9,time:1 hour", ""} {
		mode := map[bool]string{true: "debug"}[want != ""]
		w := listCall(sim, user, c.Now(), "X-Apig-Mode", mode)
		if got := w.Header().Get("X-Apig-RateLimit-api"); w.Code != 500 || got != want {
			t.Errorf("X-Apig-Mode: %s is answered %d, with %q; want 500, with %q", mode, w.Code, got, want)
		}
	}
}

// TestQuota_ForgetsIdleUsers checks that users who are back are treated rightly while
// others are forgotten.
func TestQuota_ForgetsIdleUsers(t *testing.T) {
	t.Parallel()
	c := &clock{now: time.Date(2026, 1, 31, 8, 30, 0, 0, time.UTC)}
	sim := quotaSimulator(t, c.Now, "sliding:1/m,per-user")
	for i := range 5000 {
		owner := fmt.Sprintf("u-%d", i)
		if got := listCall(sim, owner, c.Now()).Code; got != 200 {
			t.Fatalf("first call of %s is answered %d; want 200", owner, got)
		}
		if got := listCall(sim, owner, c.Now()).Code; got != 429 {
			t.Fatalf("second call of %s is answered %d; want 429", owner, got)
		}
		if got := listCall(sim, "steady", c.Now()).Code; (got == 200) != (i%120 == 0) {
			t.Fatalf("call %d of one user is answered %d; want 200 once a minute", i, got)
		}
		c.Advance(time.Minute / 120)
	}
	if got := simulator.QuotaCounters(sim); got > 1100 {
		t.Errorf("%d users are remembered; want about 1024, though 5000 called", got)
	}
}

func TestQuota_StrangersAlone(t *testing.T) {
	t.Parallel()
	c := &clock{now: time.Date(2026, 1, 31, 8, 30, 0, 0, time.UTC)}
	sim := quotaSimulator(t, c.Now, "sliding:10/m,foreign=30")
	c.Advance(time.Minute)
	want := simulator.QuotaCount{ForeignGranted: 10, ForeignRefused: 20}
	if got := sim.Stats().Quotas["api"]; got != want {
		t.Errorf("counts are %+v; want %+v", got, want)
	}
}

// Of two calls at once, the later one may be counted first.
func TestQuota_ClockGoesBack(t *testing.T) {
	t.Parallel()
	for _, shape := range []string{"bucket", "fixed", "sliding"} {
		c := &clock{now: time.Date(2026, 1, 31, 8, 30, 0, 0, time.UTC)}
		sim := quotaSimulator(t, c.Now, shape+":1/s")
		for _, step := range []struct {
			wait time.Duration
			want int
		}{{0, 200}, {-1, 429}, {1, 429}, {time.Second, 200}, {-time.Second, 429}, {2 * time.Second, 200}} {
			c.Advance(step.wait)
			if got := listCall(sim, user, c.Now()).Code; got != step.want {
				t.Errorf("%s: %v later the answer is %d; want %d", shape, step.wait, got, step.want)
			}
		}
	}
}

func TestQuota_ConcurrentCallers(t *testing.T) {
	t.Parallel()
	sim := quotaSimulator(t, time.Now, "bucket:1/d,burst=100,tell=debug", "fixed:1000000/d,per-user,tell=ratelimit", "sliding:1000000/m,foreign=1000")
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for range 50 {
				listCall(sim, fmt.Sprintf("u-%d", i), time.Now(), "X-Apig-Mode", "debug")
				sim.Stats()
			}
		})
	}
	group.Wait()
	if got := sim.Stats().Quotas["api"]; got.Granted != 100 || got.Refused != 300 {
		t.Errorf("counts are %+v; want 100 of 400 granted", got)
	}
}
