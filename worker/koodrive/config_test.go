package koodrive

import (
	"crypto/tls"
	"strings"
	"testing"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

func TestCheckBaseURL(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"https://drive.example.com":            "https://drive.example.com" + apiPath,
		"https://drive.example.com/":           "https://drive.example.com" + apiPath,
		"HTTPS://drive.example.com:8443/a/":    "https://drive.example.com:8443/a" + apiPath,
		"https://drive.example.com/mykoodrive": "https://drive.example.com/mykoodrive" + apiPath,
		"https://drive.example.com/v1":         "https://drive.example.com/v1" + apiPath,
		"http://127.9.9.9:80":                  "http://127.9.9.9:80" + apiPath,
		"http://[::1]:80":                      "http://[::1]:80" + apiPath,
		"http://LocalHost/x":                   "http://LocalHost/x" + apiPath,
	} {
		if got, err := checkBaseURL(raw, false); err != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", raw, got, err, want)
		}
	}
	for raw, says := range map[string]string{
		"":                                                   "is missing; want https://",
		"drive.example.com":                                  "neither the scheme https nor http",
		"ftp://drive.example.com":                            "neither the scheme https nor http",
		"https:drive.example.com":                            "no host",
		"https://:443":                                       "no host",
		"https://u:hush@drive.example.com":                   "holds a user name",
		"https://u:hush@drive.example.com:x":                 "is not a URL",
		"https://drive.example.com?key=hush":                 "query or fragment",
		"https://drive.example.com?":                         "query or fragment",
		"https://drive.example.com#hush":                     "query or fragment",
		"https://drivé.example.com":                          "xn--",
		"http://drive.example.com":                           "plain HTTP",
		"http://127.0.0.1.example.com":                       "plain HTTP",
		"https://drive.example.com" + apiPath:                "want https://drive.example.com",
		"https://drive.example.com/a" + apiPath + "/":        "want https://drive.example.com/a",
		"https://drive.example.com" + apiPath + "/device/d1": "want https://drive.example.com",
		"https://drive.example.com/koodrive/ose/v1":          "has /koodrive/ose/v1, which is added to it; want https://drive.example.com",
		"https://drive.example.com/koodrive/ose":             "want https://drive.example.com",
		"https://drive.example.com/koodrive":                 "want https://drive.example.com",
	} {
		_, err := checkBaseURL(raw, false)
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: got %v, want %q without the secret", raw, err, says)
		}
	}
	if _, err := checkBaseURL("http://drive.example.com", true); err != nil {
		t.Errorf("plain HTTP that was allowed: got %v, want no error", err)
	}
}

func TestNew_WrongConfig(t *testing.T) {
	t.Parallel()
	good := func() Config { return Config{BaseURL: "https://drive.example.com", Authorizer: &stub{}} }
	for says, change := range map[string]func(*Config){
		"want NewTokenAuthorizer or NewAppAuthorizer": func(c *Config) { c.Authorizer = nil },
		"concurrency is -1; want":                     func(c *Config) { c.Concurrency = -1 },
		"call timeout is -1s; want":                   func(c *Config) { c.CallTimeout = -time.Second },
		"user agent":                                  func(c *Config) { c.UserAgent = "a\r\nb" },
		"only HTTP 200 with code 0 is success":        func(c *Config) { c.Reasons = map[string]tasks.Reason{"13000999": tasks.OK} },
		"APIG and APIGW are one": func(c *Config) {
			c.Reasons = map[string]tasks.Reason{"APIG.0999": tasks.Invalid, "APIGW.0999": tasks.Invalid}
		},
		"TLS is limited": func(c *Config) { c.TLS = &tls.Config{MaxVersion: tls.VersionTLS11} }, //nolint:gosec // refused
	} {
		cfg := good()
		change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want %q", err, says)
		}
	}
}

func TestNew_Defaults(t *testing.T) {
	t.Parallel()
	c, err := New(Config{BaseURL: "https://drive.example.com", Authorizer: &stub{}})
	if err != nil {
		t.Fatal(err)
	}
	if cap(c.slots) != 16 || c.transport.MaxIdleConnsPerHost != 16 || c.timeout != 30*time.Second || c.userAgent != "kooworker" {
		t.Errorf("got %d slots, %d idle connections, %s, %q; want 16, 16, 30s, kooworker", cap(c.slots), c.transport.MaxIdleConnsPerHost, c.timeout, c.userAgent)
	}
	if !c.transport.ForceAttemptHTTP2 || !c.transport.DisableCompression || c.transport.TLSClientConfig.MinVersion != tls.VersionTLS12 {
		t.Error("the transport lacks HTTP/2, asks for compression, or allows TLS before 1.2; want none of these")
	}
}

func TestParseReasons(t *testing.T) {
	t.Parallel()
	got, err := ParseReasons([]string{" 13000999 = invalid ", "apigw.0999=throttled", "404=misrouted"})
	if err != nil || len(got) != 3 || got["13000999"] != tasks.Invalid || got["APIG.0999"] != tasks.Throttled || got["404"] != tasks.Misrouted {
		t.Errorf("got %v, %v; want the three reasons", got, err)
	}
	if got, err := ParseReasons(nil); err != nil || len(got) != 0 {
		t.Errorf("nothing: got %v, %v; want no reasons", got, err)
	}
	for entry, says := range map[string]string{
		"":                       "want <code>=<reason>",
		"13000999":               "want <code>=<reason>",
		"=invalid":               "want a KooDrive code",
		"0=invalid":              "other than 0",
		"-1=invalid":             "want a KooDrive code",
		"APIG.12=invalid":        "want a KooDrive code",
		"IAM.0004=invalid":       "want a KooDrive code",
		"13000999=ok":            "want already_gone",
		"13000999=unknown_kind":  "want one of",
		"13000999=Invalid":       "want one of",
		"13000999=":              "want one of",
		"APIG.0999=already_gone": "only a code of KooDrive",
		"404=already_gone":       "only a code of KooDrive",
	} {
		if _, err := ParseReasons([]string{entry}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: got %v, want %q", entry, err, says)
		}
	}
	if _, err := ParseReasons([]string{"APIG.0999=invalid", "APIGW.0999=invalid"}); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("one code twice: got %v", err)
	}
}
