package simulator_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

var quotaTexts = map[string]simulator.Quota{
	"bucket:200/s,burst=20": {Shape: "bucket", Limit: 200, Period: time.Second, Burst: 20},
	"fixed:3000/m,tell=text+debug,policy=user": {
		Shape: "fixed", Limit: 3000, Period: time.Minute, Policy: "user", Tell: []string{"text", "debug"},
	},
	"sliding:10/10s,per-call,per-user,retry-after=auto": {
		Shape: "sliding", Limit: 10, Period: 10 * time.Second, PerCall: true, PerUser: true, RetryAfter: simulator.RetryAfterAuto,
	},
	"bucket:200/90m,name=night,foreign=60,at=60s:x0.5,at=2m:none,at=3m:0,call=unbind": {
		Name: "night", Match: simulator.Match{Call: "unbind"}, Shape: "bucket", Limit: 200, Period: 90 * time.Minute, Foreign: 60,
		Changes: []simulator.QuotaChange{{time.Minute, 100}, {2 * time.Minute, simulator.NoLimit}, {3 * time.Minute, 0}},
	},
	`fixed:0/2d,user="a,b",target=d-*,retry-after-date=30s`: {
		Match: simulator.Match{User: "a,b", Target: "d-*"}, Shape: "fixed", Period: 48 * time.Hour,
		RetryAfter: 30 * time.Second, RetryAfterDate: true,
	},
	" fixed:1/24h , at = 1m:x2 , at = 2m:x2 ": {
		Shape: "fixed", Limit: 1, Period: 24 * time.Hour, Changes: []simulator.QuotaChange{{time.Minute, 2}, {2 * time.Minute, 4}},
	},
}

func TestParseQuota_ReadsWhatStringWrites(t *testing.T) {
	t.Parallel()
	for text, want := range quotaTexts {
		got, err := simulator.ParseQuota(text)
		if err != nil {
			t.Errorf("ParseQuota: %v", err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
		again, err := simulator.ParseQuota(got.String())
		if diff := cmp.Diff(got, again); diff != "" || err != nil {
			t.Errorf("%s is read again from %s with a difference: %v (-first +second):\n%s", text, got, err, diff)
		}
	}
}

func TestParseQuota_ErrorSaysWhatToWrite(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                              "such as bucket:200/s",
		"bucket":                        "such as bucket:200/s",
		"200/s":                         "such as bucket:200/s",
		"bucket:x/s":                    "such as bucket:200/s",
		"bucket:1.5/s":                  "such as bucket:200/s",
		"leaky:200/s":                   "want one of bucket, fixed, sliding",
		"bucket:200":                    "want s, m, h or d, or several such as 10s",
		"bucket:200/0s":                 "want s, m, h or d",
		"bucket:200/ms":                 "want s, m, h or d",
		"bucket:200/367d":               "at most 366d",
		"bucket:-1/s":                   "want 0 to 1000000000",
		"bucket:1000000001/s":           "want 0 to 1000000000",
		"sliding:10000001/s":            "want 0 to 10000000",
		"bucket:1/s,":                   "a field is empty",
		"bucket:1/s,told":               "want per-call, per-user or key=value",
		"bucket:1/s,colour=red":         "want burst, call, user, target, foreign, policy, name, at, tell, retry-after or retry-after-date",
		"bucket:1/s,burst=0":            "want a number from 1",
		"bucket:1/s,burst=1,burst=2":    "burst is given twice",
		"bucket:1/s,per-call,per-call":  "per-call is given twice",
		"fixed:1/s,burst=1":             "burst is for a bucket, not for a fixed window",
		"bucket:1/s,burst=2000000000":   "want 1 to 1000000000",
		"bucket:1/s,foreign=10001":      "at most 10000 a second",
		"bucket:1/s,foreign=1,per-user": "foreign and per-user exclude each other",
		"bucket:1/s,call=delete":        "want one of unbind, release",
		"bucket:1/s,user=[":             "pattern",
		"bucket:1/s,name=a b":           "A-Z a-z 0-9 . _ -",
		"bucket:1/s,policy=me":          "want one of api, user, app, ip, api-allenv",
		"bucket:1/s,tell=":              "want one of text, debug, ratelimit, x-ratelimit, x-ratelimit-epoch",
		"bucket:1/s,tell=text+text":     "tell names text twice",
		"bucket:1/s,tell=x-ratelimit+x-ratelimit-epoch":   "want one",
		"bucket:1/s,retry-after=2":                        "want a time such as 30s, or auto",
		"bucket:1/s,retry-after=-1ns":                     "want a time such as 30s, or auto",
		"bucket:1/s,retry-after=1s,retry-after-date=auto": "exclude each other",
		"bucket:1/s,at=60:5":                              "such as 60s:100, 60s:x0.5 or 60s:none",
		"bucket:1/s,at=60s":                               "want a number from 0 to 1000000000, a multiple such as x0.5, or none",
		"bucket:1/s,at=60s:-1":                            "want a number from 0",
		"bucket:1/s,at=60s:xNaN":                          "a multiple such as x0.5",
		"bucket:1/s,at=60s:none,at=2m:x2":                 "there is no limit to multiply",
		"bucket:1/s,at=0s:1":                              "ascending order",
		"bucket:1/s,at=9000h:1":                           "at most 366 days",
		"bucket:1/s,retry-after=9000h":                    "at most 366 days",
		"bucket:1/s,at=2m:1,at=1m:2":                      "ascending order",
		"sliding:1/s,at=1m:20000000":                      "want 0 to 10000000, or none",
	} {
		if q, err := simulator.ParseQuota(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseQuota(%q) = %+v, %v; want an error with %q", text, q, err, want)
		}
	}
}

func TestAddQuota_Refuses(t *testing.T) {
	t.Parallel()
	b := setup(t, simulator.Config{})
	for want, q := range map[string]simulator.Quota{
		"shape":                {Limit: 1, Period: time.Second},
		"whole seconds":        {Shape: "fixed", Limit: 1, Period: 1500 * time.Millisecond},
		"retry-after is":       {Shape: "fixed", Limit: 1, Period: time.Second, RetryAfter: -2},
		"date needs a time":    {Shape: "fixed", Limit: 1, Period: time.Second, RetryAfterDate: true},
		"the limit at 1m0s is": {Shape: "fixed", Limit: 1, Period: time.Second, Changes: []simulator.QuotaChange{{time.Minute, -2}}},
	} {
		if err := b.AddQuota(q); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("AddQuota(%+v) = %v; want an error with %q", q, err, want)
		}
	}
}

func FuzzParseQuota(f *testing.F) {
	for text := range quotaTexts {
		f.Add(text)
	}
	for _, text := range []string{"", ":", "/", "fixed:1/", "fixed:1/s,at=:", "fixed:1/s,at=1s:x1e300", `fixed:1/s,user="`, "bucket:999999999/365d,burst=1", "fixed:1/s,retry-after=9223372036s"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		quota, err := simulator.ParseQuota(text)
		if err != nil {
			return
		}
		again, err := simulator.ParseQuota(quota.String())
		if err != nil {
			t.Fatalf("%q is written as %q, which is refused: %v", text, quota, err)
		}
		if diff := cmp.Diff(quota, again); diff != "" {
			t.Errorf("%q is written as %q, which means something else (-first +second):\n%s", text, quota, diff)
		}
		// Whatever is accepted works, up to the end of its changes and beyond.
		quota.Foreign = 0 // the calls of strangers in a century take too long
		c := &clock{now: time.Date(2026, 1, 31, 8, 30, 0, 0, time.UTC)}
		sim, err := simulator.New(simulator.Config{Clock: c.Now, Quotas: []simulator.Quota{quota}})
		if err != nil {
			t.Fatal(err)
		}
		for _, wait := range []time.Duration{0, 1, time.Second, quota.Period, 400 * 24 * time.Hour} {
			c.Advance(wait)
			if code := listCall(sim, user, c.Now(), "X-Apig-Mode", "debug").Code; code != 200 && code != 429 {
				t.Errorf("%q: the answer is %d; want 200 or 429", text, code)
			}
		}
		sim.Stats()
	})
}
