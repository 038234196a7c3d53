package webhook

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/kooworker/kooworker/internal/httpx"
)

func TestNew_Config(t *testing.T) {
	t.Parallel()
	source, err := StaticSecret(testSecret)
	if err != nil {
		t.Fatal(err)
	}
	const token = "t0ken"
	for _, tc := range []struct {
		cfg     Config
		problem string // a part of it
	}{
		{Config{URL: "https://hooks.example.com/x?" + token}, ""},
		{Config{URL: "HTTPS://hooks.example.com:8443"}, ""},
		{Config{URL: "http://127.0.0.1:8080/x"}, ""},
		{Config{URL: "http://127.9.9.9/x"}, ""},
		{Config{URL: "http://[::1]/x"}, ""},
		{Config{URL: "http://[::ffff:127.0.0.1]/x"}, ""},
		{Config{URL: "http://LocalHost/x"}, ""},
		{Config{URL: "http://hooks.example.com/x", InsecureHTTP: true}, ""},
		{Config{URL: "http://hooks.example.com/" + token}, "plain HTTP to another machine"},
		{Config{URL: "http://localhost.example.com/" + token}, "plain HTTP to another machine"},
		{Config{}, "is missing; want https://"},
		{Config{URL: "hooks.example.com/" + token}, "neither the scheme"},
		{Config{URL: "ftp://hooks.example.com/" + token}, "neither the scheme"},
		{Config{URL: "https:///" + token}, "no host"},
		{Config{URL: "https:" + token}, "no host"},
		{Config{URL: "https://hooks.example.com:" + token}, "not a URL"},
		{Config{URL: "https://hooks.example.com/%zz" + token}, "not a URL"},
		{Config{URL: "https://hooks.example.com/x?\n" + token}, "not a URL"},
		{Config{URL: "https://ü.example.com/" + token}, "xn--"},
		{Config{URL: "https://me:" + token + "@hooks.example.com/"}, "user name or password"},
		{Config{URL: "https://" + token + "@hooks.example.com/"}, "user name or password"},
		{Config{URL: "https://hooks.example.com/#" + token}, "fragment"},
		{Config{URL: "https://hooks.example.com/#"}, "fragment"},
		{Config{URL: "https://hooks.example.com/?a b" + token}, "percent-encoded"},
		{Config{URL: "https://hooks.example.com/?ü" + token}, "percent-encoded"},
		{Config{URL: "https://hooks.example.com/", Timeout: -1}, "timeout is -1ns; want more than 0, or 0 for 10s"},
		{Config{URL: "https://hooks.example.com/", UserAgent: "a\r\nb"}, "user agent"},
	} {
		tc.cfg.Secret = source
		_, err := New(tc.cfg)
		if (err == nil) != (tc.problem == "") || err != nil && (!strings.Contains(err.Error(), tc.problem) || strings.Contains(err.Error(), token)) {
			t.Errorf("%q: got %v, want %s", tc.cfg.URL, err, tc.problem)
		}
	}
	if _, err := New(Config{URL: "https://hooks.example.com/"}); err == nil || !strings.Contains(err.Error(), "want StaticSecret or SecretFile") {
		t.Errorf("without a secret: got %v, want an error that names the constructors", err)
	}
	s, err := New(Config{URL: "https://hooks.example.com/", Secret: source})
	if err != nil || s.timeout != 10*time.Second || s.userAgent != "kooworker" || time.Since(s.now()).Abs() > time.Minute {
		t.Errorf("defaults: got %v, want 10s, kooworker and the time of now", err)
	}
}

func TestSend_WrongProxySetting(t *testing.T) {
	t.Parallel()
	find := httpx.HideProxy(func(*http.Request) (*url.URL, error) { return nil, errors.New(`invalid proxy "http://me:s3cret@"`) })
	s := connect(t, "https://hooks.example.com/x", nil)
	s.transport.Proxy = find
	if a := s.Send(t.Context(), testID, []byte(testBody)); a.Message != httpx.ErrProxy.Error() {
		t.Errorf("got %+v, want %q", a, httpx.ErrProxy)
	}
}
