package koodrive

import (
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/time/rate"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// The simulator tells of its quotas in each of its ways, and the client reads it.
func TestClient_LimitOfTheSimulator(t *testing.T) {
	t.Parallel()
	const hour = time.Hour
	of := func(dimension string) Limit { return Limit{Calls: 2, Window: hour, Dimension: dimension} }
	for name, tc := range map[string]struct {
		quotas     []string
		ask        *rate.Sometimes // nil: never
		want       [3]Limit        // of two calls that pass, and one that is refused
		retryAfter time.Duration
	}{
		"silent": {quotas: []string{"sliding:2/h"}, ask: &rate.Sometimes{Every: 1}},

		"text":               {quotas: []string{"sliding:2/h,tell=text"}, want: [3]Limit{2: of("api")}},
		"text, user":         {quotas: []string{"sliding:2/h,tell=text,policy=user"}, want: [3]Limit{2: of("user")}},
		"text, app":          {quotas: []string{"sliding:2/d,tell=text,policy=app"}, want: [3]Limit{2: {Calls: 2, Window: day, Dimension: "app"}}},
		"text, address":      {quotas: []string{"bucket:2/60m,tell=text,policy=ip"}, want: [3]Limit{2: of("ip")}},
		"text, environments": {quotas: []string{"sliding:2/3600s,tell=text,policy=api-allenv"}, want: [3]Limit{2: of("api-allenv")}},

		"debug, not asked":      {quotas: []string{"sliding:2/h,tell=debug"}},
		"debug, asked once":     {quotas: []string{"sliding:2/h,tell=debug"}, ask: &rate.Sometimes{First: 1}, want: [3]Limit{of("api").with(1, 0)}},
		"debug, always asked":   {quotas: []string{"sliding:2/h,tell=debug"}, ask: &rate.Sometimes{Every: 1}, want: [3]Limit{of("api").with(1, 0), of("api").with(0, 0), of("api").with(0, 0)}},
		"debug, several quotas": {quotas: []string{"bucket:9/s,tell=debug", "sliding:2/h,tell=debug+text,policy=user"}, ask: &rate.Sometimes{Every: 1}, want: [3]Limit{of("user").with(1, 0), of("user").with(0, 0), of("user").with(0, 0)}},

		"ratelimit":                 {quotas: []string{"sliding:2/h,tell=ratelimit"}, want: [3]Limit{of("").with(1, hour), of("").with(0, hour), of("").with(0, hour)}},
		"ratelimit, several quotas": {quotas: []string{"bucket:9/s,tell=ratelimit,name=burst", "sliding:2/h,tell=ratelimit"}, want: [3]Limit{of("").with(1, hour), of("").with(0, hour), of("").with(0, hour)}},

		// No window is named, so no limit is known but what is left.
		"x-ratelimit":       {quotas: []string{"sliding:2/h,tell=x-ratelimit"}, want: [3]Limit{Limit{}.with(1, hour), Limit{}.with(0, hour), Limit{}.with(0, hour)}},
		"x-ratelimit-epoch": {quotas: []string{"sliding:2/h,tell=x-ratelimit-epoch"}, want: [3]Limit{Limit{}.with(1, hour), Limit{}.with(0, hour), Limit{}.with(0, hour)}},

		"text and x-ratelimit":        {quotas: []string{"sliding:2/h,tell=text+x-ratelimit"}, want: [3]Limit{Limit{}.with(1, hour), Limit{}.with(0, hour), of("api").with(0, hour)}},
		"debug and x-ratelimit-epoch": {quotas: []string{"sliding:2/h,tell=debug+x-ratelimit-epoch"}, ask: &rate.Sometimes{Every: 1}, want: [3]Limit{of("api").with(1, hour), of("api").with(0, hour), of("api").with(0, hour)}},
		"all": {
			quotas: []string{"sliding:2/h,tell=text+debug+ratelimit+x-ratelimit,retry-after=30s"}, ask: &rate.Sometimes{Every: 1}, retryAfter: 30 * time.Second,
			want: [3]Limit{of("api").with(1, hour), of("api").with(0, hour), of("api").with(0, hour)},
		},

		"retry-after":              {quotas: []string{"sliding:2/h,retry-after=30s"}, retryAfter: 30 * time.Second},
		"retry-after, as a date":   {quotas: []string{"sliding:2/h,retry-after-date=30s"}, retryAfter: 30 * time.Second},
		"retry-after, as it is":    {quotas: []string{"sliding:2/h,retry-after=auto"}, retryAfter: hour},
		"retry-after and the text": {quotas: []string{"sliding:2/h,retry-after-date=auto,tell=text"}, retryAfter: hour, want: [3]Limit{2: of("api")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := connectSimulator(t, simulator.Config{}, nil, tc.quotas...)
			c.askQuota = tc.ask
			for i, want := range tc.want {
				reason := tasks.OK
				if i == 2 {
					reason = tasks.Throttled
				}
				_, got := c.Devices(t.Context(), testUser)
				got.Limit.Reset = near(got.Limit.Reset, want.Reset)
				if diff := cmp.Diff(want, got.Limit); diff != "" || got.Reason != reason {
					t.Errorf("call %d: got %v, want %s (-want +got):\n%s", i+1, got, reason, diff)
				}
				if wait := map[tasks.Reason]time.Duration{tasks.Throttled: tc.retryAfter}[reason]; near(got.RetryAfter, wait) != wait {
					t.Errorf("call %d: got RetryAfter %v, want about %v", i+1, got.RetryAfter, wait)
				}
			}
		})
	}
}

// near returns what a time should be, if it is a little shorter, since the test has
// taken some time, or up to a second longer, since it was rounded up.
func near(got, want time.Duration) time.Duration {
	if want > 0 && got >= want-want/60 && got <= want+time.Second {
		return want
	}
	return got
}

// connectSimulator returns a client of a simulator with quotas.
func connectSimulator(t *testing.T, cfg simulator.Config, change func(*Config), quotas ...string) *Client {
	t.Helper()
	for _, text := range quotas {
		quota, err := simulator.ParseQuota(text)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Quotas = append(cfg.Quotas, quota)
	}
	sim, err := simulator.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(sim)
	t.Cleanup(server.Close)
	return connect(t, server.URL, change)
}

// The header that asks for the quota is not among those that are signed.
func TestClient_AsksForTheQuotaWithASignature(t *testing.T) {
	t.Parallel()
	const appID, appSecret = "app-7", "MFyfvK41ba2giqM7Uio6PznpdUKGpownRZlmVmHc"
	secret, err := StaticSecret(appSecret)
	if err != nil {
		t.Fatal(err)
	}
	auth, err := NewAppAuthorizer(appID, secret)
	if err != nil {
		t.Fatal(err)
	}
	signed := simulator.Config{Auth: simulator.Auth{Mode: simulator.AuthApp, AppID: appID, AppSecret: appSecret}}
	c := connectSimulator(t, signed, func(cfg *Config) { cfg.Authorizer, cfg.QuotaHeaders = auth, true }, "sliding:9/h,tell=debug,policy=app")
	want := Limit{Calls: 9, Window: time.Hour, Dimension: "app"}.with(8, 0)
	if _, got := c.Devices(t.Context(), testUser); got.Reason != tasks.OK || got.Limit != want {
		t.Errorf("got %v with %+v, want ok with %+v", got, got.Limit, want)
	}
}
