package webhook

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/kooworker/kooworker/internal/httpx"
)

const (
	defaultTimeout   = 10 * time.Second
	defaultUserAgent = "kooworker"
)

// Config says where webhooks go and how they are signed.
type Config struct {
	// URL is where webhooks go: https://host[:port][/path][?query]. Required. http
	// is for this machine (127.0.0.0/8, ::1, localhost), see InsecureHTTP. Only its
	// scheme and host are ever shown, since the rest may be a token.
	URL string `json:"-"`
	// Secret is the secret that webhooks are signed with, see StaticSecret and
	// SecretFile. Required.
	Secret SecretSource `json:"-"`
	// Timeout is for one webhook, from the connection to the last byte of the
	// answer. Default 10 s.
	Timeout time.Duration
	// InsecureHTTP allows plain HTTP to another machine. Whoever sees the traffic
	// then sees the batches' statistics and the URL.
	InsecureHTTP bool
	// UserAgent is sent as User-Agent. Default "kooworker".
	UserAgent string
	// Now is the clock of the signature. Default time.Now.
	Now func() time.Time `json:"-"`
}

// Format prints the configuration without the URL and the secret.
func (c Config) Format(s fmt.State, _ rune) {
	_, _ = fmt.Fprintf(s, "{Timeout:%s InsecureHTTP:%t UserAgent:%q}", c.Timeout, c.InsecureHTTP, c.UserAgent)
}

// New returns a sender. The proxy that the environment names (HTTPS_PROXY,
// HTTP_PROXY, NO_PROXY) is used.
func New(cfg Config) (*Sender, error) {
	u, err := checkURL(cfg.URL, cfg.InsecureHTTP)
	switch {
	case err != nil:
		return nil, err
	case cfg.Secret == nil:
		return nil, errors.New("the webhook has no secret; want StaticSecret or SecretFile")
	case cfg.Timeout < 0:
		return nil, fmt.Errorf("the webhook's timeout is %s; want more than 0, or 0 for %s", cfg.Timeout, defaultTimeout)
	case !httpx.PrintableASCII(cfg.UserAgent):
		return nil, errors.New("the webhook's user agent has a control character or one beyond ASCII; want printable ASCII")
	}
	timeout, now := cmp.Or(cfg.Timeout, defaultTimeout), cfg.Now
	if now == nil {
		now = time.Now
	}
	return &Sender{
		target:    target{origin: u.Scheme + "://" + u.Host},
		url:       func() *url.URL { return u },
		secret:    cfg.Secret,
		transport: newTransport(timeout),
		timeout:   timeout,
		userAgent: cmp.Or(cfg.UserAgent, defaultUserAgent),
		now:       now,
	}, nil
}

// checkURL's errors do not show the URL.
func checkURL(raw string, insecure bool) (*url.URL, error) {
	const what = "the webhook's URL"
	u, err := httpx.CheckURL(what, "https://host[:port][/path][?query]", raw, insecure)
	switch {
	case err != nil:
		return nil, err
	case u.User != nil:
		return nil, errors.New(what + " holds a user name or password; want it without: the signature says who sends")
	case u.Fragment != "" || strings.Contains(raw, "#"):
		return nil, errors.New(what + " has a fragment (#), which would not be sent; want it without, or a # written as %23")
	case strings.Contains(u.RawQuery, " ") || !httpx.PrintableASCII(u.RawQuery): // net/url lets them through to the request line
		return nil, errors.New(what + " has a space or a character beyond ASCII in its query; want it percent-encoded")
	}
	return u, nil
}

// newTransport gives each step of a connection the timeout of the whole. Without
// that, net/http would continue to connect after the request has timed out.
func newTransport(timeout time.Duration) *http.Transport {
	return &http.Transport{
		Proxy:               httpx.HideProxy(http.ProxyFromEnvironment),
		DialContext:         (&net.Dialer{Timeout: timeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: timeout,
		DisableCompression:  true, // only headers that the package comment lists
		MaxIdleConns:        1,
		MaxIdleConnsPerHost: 1,
		// Batches end far apart. After a longer time something on the way has most
		// likely dropped the connection.
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// target is what fmt shows of a Sender, whatever the verb. Without it fmt would show
// the fields.
type target struct{ origin string }

// String names the scheme and host that webhooks go to.
func (t target) String() string { return "webhook to " + t.origin }

// GoString is String.
func (t target) GoString() string { return t.String() }

// Format prints String, whatever the verb.
func (t target) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, t.String()) }
