package koodrive

import (
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const day = 24 * time.Hour

// with adds what is left to a limit.
func (l Limit) with(remaining int, reset time.Duration) Limit {
	l = l.withRemaining(int64(remaining))
	l.Reset = reset
	return l
}

// headers returns the header that holds these lines, such as "RateLimit: limit=1".
func headers(lines ...string) http.Header {
	header := make(http.Header)
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		header.Add(name, value)
	}
	return header
}

func TestReadLimit_Text(t *testing.T) {
	t.Parallel()
	const before = "The throttling threshold has been reached: policy "
	limit := func(calls int, window time.Duration, dimension string) Limit {
		return Limit{Calls: calls, Window: window, Dimension: dimension}
	}
	for text, want := range map[string]Limit{
		before + "user over ratelimit,limit:100,time:1 minute":     limit(100, time.Minute, "user"),
		before + "user over ratelimit,limit:100,time:1 minute.":    limit(100, time.Minute, "user"),
		before + "api over ratelimit,limit:3,time:5 minute":        limit(3, 5*time.Minute, "api"),
		before + "ip over ratelimit,limit:200,time:1 second":       limit(200, time.Second, "ip"),
		before + "app over ratelimit,limit:7,time:2 hours":         limit(7, 2*time.Hour, "app"),
		before + "api-allenv over ratelimit, limit:1, time:3 days": limit(1, 3*day, "api-allenv"),
		before + "User over RateLimit,Limit:1,Time:90 SECONDS":     limit(1, 90*time.Second, "user"),
		before + "domain over ratelimit,limit:5,time:1 day":        limit(5, day, ""),
		"limit:5, time:1 day":                   limit(5, day, ""),
		"":                                      {},
		"slow down":                             {},
		before + "user over ratelimit,limit:10": {},
		before + "user over ratelimit,limit:XX,time:1 minute":                                {},
		before + "user over ratelimit,limit:0,time:1 minute":                                 {},
		before + "user over ratelimit,limit:-1,time:1 minute":                                {},
		before + "user over ratelimit,limit:1.5,time:1 minute":                               {},
		before + "user over ratelimit,limit:10,time:0 minute":                                {},
		before + "user over ratelimit,limit:10,time:-1 minute":                               {},
		before + "user over ratelimit,limit:10,time:32 day":                                  {},
		before + "user over ratelimit,limit:10,time:99999999 day":                            {},
		before + "user over ratelimit,limit:10,time:999999999999999999999 second":            {},
		before + "user over ratelimit,limit:1000000001,time:1 day":                           {},
		before + "user over ratelimit,limit:99999999999999999999,time:1 day":                 {},
		before + "user over ratelimit,limit:10,time:1 fortnight":                             {},
		before + "user over ratelimit,limit:10,time:1 secondary":                             {},
		before + "user over ratelimit,limit:10,time:500 millisecond":                         {},
		strings.Repeat("x", maxLimitText) + " user over ratelimit,limit:10,time:1 minute":    {},
		strings.Repeat("x", maxLimitText-10) + " user over ratelimit,limit:10,time:1 minute": {},
	} {
		if got := readLimit(nil, text); got != want {
			t.Errorf("%q: got %+v, want %+v", text, got, want)
		}
	}
}

func TestReadLimit_Headers(t *testing.T) {
	t.Parallel()
	perMinute := Limit{Calls: 100, Window: time.Minute}
	for name, tc := range map[string]struct {
		lines []string
		want  Limit
	}{
		"nothing": {nil, Limit{}},

		// The gateway's.
		"default of the gateway": {
			[]string{"X-Apig-RateLimit-api-allenv: remain:199,limit:200,time:1 second"},
			Limit{Calls: 200, Window: time.Second, Dimension: "api-allenv"}.with(199, 0),
		},
		"all of the gateway's": {
			[]string{
				"X-Apig-RateLimit-api: remain:9,limit:10,time:1 second", "X-Apig-RateLimit-user: remain:8,limit:500,time:1 minute",
				"X-Apig-RateLimit-app: remain:7,limit:2000,time:1 hour", "X-Apig-RateLimit-ip: remain:6,limit:100000,time:1 day",
				"X-Apig-RateLimit-api-allenv: remain:5,limit:200,time:1 second",
			},
			Limit{Calls: 2000, Window: time.Hour, Dimension: "app"}.with(7, 0),
		},
		"of the gateway, several of one kind": {
			[]string{"X-Apig-RateLimit-user: remain:9,limit:10,time:1 second", "X-Apig-RateLimit-user: remain:3,limit:100,time:1 minute"},
			Limit{Calls: 100, Window: time.Minute, Dimension: "user"}.with(3, 0),
		},
		"of the gateway, nothing left": {
			[]string{"X-Apig-RateLimit-ip: remain:0,limit:10,time:10 second"},
			Limit{Calls: 10, Window: 10 * time.Second, Dimension: "ip"}.with(0, 0),
		},
		"of the gateway, with a remainder that makes no sense": {
			[]string{"X-Apig-RateLimit-ip: remain:999999999999,limit:10,time:10 second"},
			Limit{Calls: 10, Window: 10 * time.Second, Dimension: "ip"},
		},
		"of the gateway, a tie": {
			[]string{"X-Apig-RateLimit-api: remain:30,limit:60,time:1 minute", "X-Apig-RateLimit-user: remain:1,limit:1,time:1 second", "X-Apig-RateLimit-ip: limit:60,time:1 minute"},
			Limit{Calls: 1, Window: time.Second, Dimension: "user"}.with(1, 0),
		},
		"of the gateway, wrong": {
			[]string{"X-Apig-RateLimit-api: remain:9,limit:0,time:1 second", "X-Apig-RateLimit-user: unlimited", "X-Apig-RateLimit-city: remain:9,limit:10,time:1 second"},
			Limit{},
		},

		// The IETF's draft.
		"draft":                   {[]string{`RateLimit-Policy: "x";q=100;w=60`, `RateLimit: "x";r=50;t=30`}, perMinute.with(50, 30*time.Second)},
		"draft, the policy alone": {[]string{`RateLimit-Policy: "x";q=100;w=60`}, perMinute},
		"draft, without a time":   {[]string{`RateLimit-Policy: "x";q=100;w=60`, `RateLimit: "x";r=0`}, perMinute.with(0, 0)},
		"draft, other order and more parameters": {
			[]string{`RateLimit-Policy: "x";w=60;acme-note="a,;b";q=100;pk=:cHsdsRa894==:`, `RateLimit: "x";t=30;pk=:cHsdsRa894==:;r=50`},
			perMinute.with(50, 30*time.Second),
		},
		"draft, names that are tokens": {[]string{`RateLimit-Policy: x;q=100;w=60`, `RateLimit: x;r=50;t=30`}, perMinute.with(50, 30*time.Second)},
		"draft, several": {
			[]string{`RateLimit-Policy: "burst"; q=100; w=1, "day"; q=1000; w=86400`, `RateLimit: "burst";r=2;t=1,"day";r=900;t=3600`},
			Limit{Calls: 1000, Window: day}.with(900, time.Hour),
		},
		"draft, on several lines": {
			[]string{`RateLimit-Policy: "burst";q=100;w=1`, `RateLimit-Policy: "day";q=1000;w=86400`, `RateLimit: "day";r=900;t=3600`, `RateLimit: "burst";r=2;t=1`},
			Limit{Calls: 1000, Window: day}.with(900, time.Hour),
		},
		"draft, a tie":                  {[]string{`RateLimit-Policy: "a";q=1;w=1, "b";q=60;w=60, "c";q=3600;w=3600`, `RateLimit: "a";r=1;t=1, "b";r=0;t=9`}, Limit{Calls: 60, Window: time.Minute}.with(0, 9*time.Second)},
		"draft, not of requests":        {[]string{`RateLimit-Policy: "size";q=10;w=60;qu="content-bytes", "n";q=100;w=60;qu="requests"`}, perMinute},
		"draft, nothing of requests":    {[]string{`RateLimit-Policy: "size";q=10;w=60;qu="content-bytes"`, `RateLimit: "size";r=0;t=30`}, Limit{}},
		"draft, without a window":       {[]string{`RateLimit-Policy: "x";q=100`, `RateLimit: "x";r=50;t=30`}, Limit{}.with(50, 30*time.Second)},
		"draft, the state alone":        {[]string{`RateLimit: "x";r=50;t=30, "y";r=3;t=9`}, Limit{}.with(3, 9*time.Second)},
		"draft, a time but no number":   {[]string{`RateLimit: "x";t=30`}, Limit{}},
		"draft, state of another":       {[]string{`RateLimit-Policy: "x";q=100;w=60`, `RateLimit: "y";r=50;t=30`}, perMinute},
		"draft, name given twice":       {[]string{`RateLimit-Policy: "x";q=100;w=60, "x";q=200;w=60`, `RateLimit: "x";r=50;t=30`}, perMinute},
		"draft, longer than the window": {[]string{`RateLimit-Policy: "x";q=100;w=60`, `RateLimit: "x";r=0;t=3600`}, perMinute.with(0, time.Minute)},
		"draft, one wrong of two":       {[]string{`RateLimit-Policy: "x";q=100;w=60, "y";q=0;w=60, ("z");q=1;w=60`}, perMinute},
		"draft, wrong numbers":          {[]string{`RateLimit-Policy: "x";q=100;w=60`, `RateLimit: "x";r=-1;t=-1`}, perMinute},
		"draft, more wrong numbers":     {[]string{`RateLimit-Policy: "a";q=-1;w=60, "b";q=1;w=-60, "c";q=1.5;w=60, "d";q="1";w=60, "e";q;w=60, "f";q=1000000001;w=1, "g";q=1;w=2678401`}, Limit{}},
		"draft, overflow":               {[]string{`RateLimit-Policy: "x";q=99999999999999999999;w=60`}, Limit{}},
		"draft, nonsense":               {[]string{`RateLimit-Policy: soon`, `RateLimit: later!`}, Limit{}},
		"draft, too long":               {[]string{`RateLimit-Policy: "x";q=100;w=60;note="` + strings.Repeat("x", maxLimitText) + `"`}, Limit{}},
		"draft, too long together":      {[]string{`RateLimit-Policy: "x";q=100;w=60`, `RateLimit-Policy: "` + strings.Repeat("x", maxLimitText) + `";q=100;w=60`}, Limit{}},

		// Older drafts.
		"draft 7":                             {[]string{`RateLimit-Policy: 100;w=60`, `RateLimit: limit=100, remaining=50, reset=30`}, perMinute.with(50, 30*time.Second)},
		"draft 7, several":                    {[]string{`RateLimit-Policy: 10;w=1, 1000;w=3600;comment="x"`, `RateLimit: reset=5, limit=1000, remaining=0`}, Limit{Calls: 1000, Window: time.Hour}.with(0, 5*time.Second)},
		"draft 7, the state alone":            {[]string{`RateLimit: limit=100, remaining=50, reset=30`}, Limit{}.with(50, 30*time.Second)},
		"draft 3":                             {[]string{`RateLimit-Limit: 100, 100;w=60`, `RateLimit-Remaining: 50`, `RateLimit-Reset: 30`}, perMinute.with(50, 30*time.Second)},
		"draft 3, several":                    {[]string{`RateLimit-Limit: 10, 10;w=1, 50;w=60`, `RateLimit-Remaining: 9`, `RateLimit-Reset: 1`}, Limit{Calls: 50, Window: time.Minute}},
		"draft 3, one item":                   {[]string{`RateLimit-Limit: 100;w=60`, `RateLimit-Remaining: 50`, `RateLimit-Reset: 30`}, perMinute.with(50, 30*time.Second)},
		"draft 3, one number for two windows": {[]string{`RateLimit-Limit: 100, 100;w=1, 100;w=60`, `RateLimit-Remaining: 0`, `RateLimit-Reset: 1`}, perMinute},
		"draft 6":                             {[]string{`RateLimit-Policy: 100;w=60`, `RateLimit-Limit: 100`, `RateLimit-Remaining: 50`, `RateLimit-Reset: 30`}, perMinute.with(50, 30*time.Second)},

		// Before the drafts. Without a window these name no limit per time.
		"x":                       {[]string{`X-RateLimit-Limit: 100`, `X-RateLimit-Remaining: 50`, `X-RateLimit-Reset: 30`}, Limit{}.with(50, 30*time.Second)},
		"x, the limit alone":      {[]string{`X-RateLimit-Limit: 100`}, Limit{}},
		"x, without the limit":    {[]string{`X-RateLimit-Remaining: 0`, `X-RateLimit-Reset: 30`}, Limit{}.with(0, 30*time.Second)},
		"x, blocked":              {[]string{`X-RateLimit-Limit: 0`, `X-RateLimit-Remaining: 0`, `X-RateLimit-Reset: 30`}, Limit{}.with(0, 30*time.Second)},
		"x, with the window":      {[]string{`X-RateLimit-Limit: 100, 100;w=60;name="x"`, `X-RateLimit-Remaining: 50`, `X-RateLimit-Reset: 30`}, perMinute.with(50, 30*time.Second)},
		"x, window in the policy": {[]string{`RateLimit-Policy: "x";q=100;w=60`, `X-RateLimit-Limit: 100`, `X-RateLimit-Remaining: 50`, `X-RateLimit-Reset: 30`}, perMinute.with(50, 30*time.Second)},
		"x, window of the gateway": {
			[]string{"X-Apig-RateLimit-user: remain:51,limit:100,time:1 minute", `X-RateLimit-Limit: 100`, `X-RateLimit-Remaining: 50`, `X-RateLimit-Reset: 30`},
			Limit{Calls: 100, Window: time.Minute, Dimension: "user"}.with(50, 30*time.Second),
		},
		"x, of another limit": {[]string{`RateLimit-Policy: "x";q=100;w=60`, `X-RateLimit-Limit: 10`, `X-RateLimit-Remaining: 0`, `X-RateLimit-Reset: 30`}, perMinute},
		"x, sent by two":      {[]string{`X-RateLimit-Limit: 100`, `X-RateLimit-Remaining: 50`, `X-RateLimit-Remaining: 7`, `X-RateLimit-Reset: 30`}, Limit{}},
		"x, wrong numbers":    {[]string{`X-RateLimit-Limit: many`, `X-RateLimit-Remaining: -1`, `X-RateLimit-Reset: 30`}, Limit{}},
		"x, too many left":    {[]string{`X-RateLimit-Remaining: 1000000001`, `X-RateLimit-Reset: 30`}, Limit{}},
		"x, too long":         {[]string{`X-RateLimit-Remaining: 5` + strings.Repeat(" ", maxLimitText)}, Limit{}},
		"x and draft 3":       {[]string{`X-RateLimit-Remaining: 5`, `X-RateLimit-Reset: 30`, `RateLimit-Remaining: 4`, `RateLimit-Reset: 29`}, Limit{}.with(4, 29*time.Second)},
	} {
		if diff := cmp.Diff(tc.want, readLimit(headers(tc.lines...), "")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// A refusal may name the limit in its text and the rest in headers.
func TestReadLimit_TextAndHeaders(t *testing.T) {
	t.Parallel()
	const text = "policy user over ratelimit,limit:100,time:1 minute"
	perMinute := Limit{Calls: 100, Window: time.Minute, Dimension: "user"}
	for name, tc := range map[string]struct {
		lines []string
		want  Limit
	}{
		"the text alone":        {nil, perMinute},
		"the gateway's headers": {[]string{"X-Apig-RateLimit-user: remain:0,limit:100,time:1 minute", "X-Apig-RateLimit-api: remain:9,limit:200,time:1 second"}, perMinute.with(0, 0)},
		"a lower limit":         {[]string{"X-Apig-RateLimit-api: remain:9,limit:20,time:1 minute"}, Limit{Calls: 20, Window: time.Minute, Dimension: "api"}.with(9, 0)},
		"what is left of it":    {[]string{"X-RateLimit-Limit: 100", "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 12"}, perMinute.with(0, 12*time.Second)},
		"another":               {[]string{`RateLimit-Policy: "x";q=5;w=1`, `RateLimit: "x";r=0;t=1`}, perMinute},
	} {
		if diff := cmp.Diff(tc.want, readLimit(headers(tc.lines...), text)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// X-RateLimit-Reset is a number of seconds, or the time itself.
func TestReadLimit_ResetTime(t *testing.T) {
	t.Parallel()
	date := time.Date(2026, 1, 31, 8, 30, 30, 0, time.UTC)
	for reset, want := range map[string]time.Duration{
		"0":                       0,
		"1":                       time.Second,
		"2678400":                 31 * day,
		"2678401":                 0, // longer than any window
		"999999999":               0, // neither
		"1769848260":              30 * time.Second,
		"1769848230":              0, // now
		"1769848229":              0, // over
		"1000000000":              0,
		"1769848260000":           30 * time.Second,
		"1769848260500":           30*time.Second + 500*time.Millisecond,
		"4102444800":              0, // in 2100
		"1769848260000000":        0,
		"999999999999999":         0,
		"1769848260.5":            0,
		"-5":                      0,
		"soon":                    0,
		date.Format(time.RFC3339): 0,
	} {
		header := headers("X-RateLimit-Remaining: 7", "X-RateLimit-Reset: "+reset, "Date: "+date.Format(http.TimeFormat))
		if got := readLimit(header, ""); got != (Limit{}).with(7, want) {
			t.Errorf("%s: got %+v, want %s", reset, got, want)
		}
	}
}

// checkBelieved fails the test if a limit is beyond what is believed.
func checkBelieved(t *testing.T, l Limit) {
	t.Helper()
	ok := l.Calls >= 0 && l.Calls <= maxLimitCalls && l.Window >= 0 && l.Window <= maxLimitWindow && l.Window%time.Second == 0
	ok = ok && (l.Calls > 0) == (l.Window > 0) // a limit is per time
	ok = ok && l.Remaining >= 0 && l.Remaining <= maxLimitCalls && (l.HasRemaining || l.Remaining == 0)
	ok = ok && l.Reset >= 0 && (l.Reset <= l.Window || l.Window == 0 && l.Reset <= maxLimitWindow)
	ok = ok && (l.Calls > 0 || l.HasRemaining || l == Limit{})
	ok = ok && (l.Dimension == "" || l.Calls > 0)
	if !ok {
		t.Fatalf("got %+v, beyond what is believed", l)
	}
}

func FuzzReadLimit(f *testing.F) {
	f.Add("policy user over ratelimit,limit:100,time:1 minute", "remain:9,limit:10,time:10 second", `"x";q=100;w=60`, `"x";r=50;t=30`, "100, 100;w=60", "50", "30")
	f.Add("limit:٣,time:1 day", ",", ";q=0;w=0", "limit=100, remaining=50, reset=5", "100", "-1", "1769848260")
	f.Add("", "remain:0,limit:1,time:1 day", "100;w=60", `x;r;t=?1, ("y")`, `100;w=60;qu="requests"`, "9223372036854775807", "99999999999")
	f.Fuzz(func(t *testing.T, text, apig, policy, state, limit, remaining, reset string) {
		for _, prefix := range []string{"", "X-"} {
			l := readLimit(http.Header{
				"X-Apig-Ratelimit-App": {apig}, "Ratelimit-Policy": {policy}, "Ratelimit": {state},
				prefix + "Ratelimit-Limit": {limit}, prefix + "Ratelimit-Remaining": {remaining}, prefix + "Ratelimit-Reset": {reset},
			}, text)
			checkBelieved(t, l)
		}
	})
}

// usual is the header of most answers: it says nothing of a quota.
func usual() http.Header {
	return headers("Content-Type: application/json", "Content-Length: 26", "Connection: keep-alive", "Server: api-gateway",
		"X-Request-Id: d4ec6e33148bdeffe8f55b43472d1251", "Strict-Transport-Security: max-age=31536000", "Cache-Control: no-store",
		"X-Content-Type-Options: nosniff", "Pragma: no-cache")
}

func TestReadLimit_NoneCostsNoAllocation(t *testing.T) {
	header := usual()
	if n := testing.AllocsPerRun(100, func() { readLimit(header, "") }); n > 0 {
		t.Errorf("got %v allocations, want none if no header names a limit", n)
	}
}

func BenchmarkReadLimit(b *testing.B) {
	told := func(lines ...string) http.Header {
		header := usual()
		maps.Copy(header, headers(lines...))
		return header
	}
	for name, header := range map[string]http.Header{
		"none":        usual(),
		"gateway":     told("X-Apig-RateLimit-api: remain:99,limit:100,time:1 minute", "X-Apig-RateLimit-api-allenv: remain:199,limit:200,time:1 second"),
		"ratelimit":   told(`RateLimit-Policy: "x";q=100;w=60`, `RateLimit: "x";r=50;t=30`),
		"x-ratelimit": told("X-RateLimit-Limit: 100", "X-RateLimit-Remaining: 50", "X-RateLimit-Reset: 30"),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				readLimit(header, "")
			}
		})
	}
}
