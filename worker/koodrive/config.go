package koodrive

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"github.com/kooworker/kooworker/internal/httpx"
	"github.com/kooworker/kooworker/tasks"
)

// apiPath is what every call's path begins with, after the deployment's own prefix.
const apiPath = "/koodrive/ose/v1/backup"

// urlForm is how the URL of KooDrive or of a token broker should look.
const urlForm = "https://host[:port][/prefix]"

const (
	defaultConcurrency = 16
	defaultCallTimeout = 30 * time.Second
	defaultUserAgent   = "kooworker"
	// askQuotaEvery is the least time between two requests that ask for the quota.
	askQuotaEvery = time.Second
)

// Config says where KooDrive is and how to talk to it.
type Config struct {
	// BaseURL is scheme://host[:port][/prefix], without
	// /koodrive/ose/v1/backup. Required. The scheme is https; http is for this
	// machine (127.0.0.0/8, ::1, localhost), see InsecureHTTP.
	BaseURL string
	// Authorizer gives the calls their credential. Required.
	Authorizer Authorizer
	// Concurrency is how many calls are in flight at most. A further call waits
	// until its context ends. As many idle connections are kept. Default 16.
	Concurrency int
	// CallTimeout is for one HTTP exchange, from the connection to the last
	// byte of the answer. A call takes up to two of them, see the package
	// comment. Default 30 s.
	CallTimeout time.Duration
	// InsecureHTTP allows plain HTTP to another machine. Whoever sees the traffic
	// then sees the credentials.
	InsecureHTTP bool
	// Reasons are the deployment's additions to the table of codes, as
	// ParseReasons returns them. They go before the table.
	Reasons map[string]tasks.Reason
	// QuotaHeaders asks the gateway for the quota, with the header X-Apig-Mode: debug.
	// The first call carries it, and then at most one call a second. The answer is
	// expected in X-Apig-RateLimit headers; see Answer.Limit. The vendor documents
	// this for its gateway. Whether KooDrive's gateway answers is not known.
	QuotaHeaders bool
	// UserAgent is sent as User-Agent. Default "kooworker".
	UserAgent string
	// Observe is called after each exchange. It must not block. Default: nothing is called.
	Observe func(Exchange)
	// TracerProvider makes a span of each exchange whose context has a parent. Default:
	// there are no spans.
	TracerProvider trace.TracerProvider
	// TraceHeader is the header in which such an exchange tells its trace, such as
	// X-Traceid. It needs a TracerProvider. App authorization does not sign it. Default:
	// none is sent. See traceHeader.
	TraceHeader string
	// TLS is for a private certificate authority, a client certificate, or
	// tests. Optional; its MinVersion is raised to TLS 1.2.
	TLS *tls.Config
}

// New returns a client. The proxy that the environment names (HTTPS_PROXY,
// HTTP_PROXY, NO_PROXY) is used.
func New(cfg Config) (*Client, error) {
	base, err := checkBaseURL(cfg.BaseURL, cfg.InsecureHTTP)
	if err != nil {
		return nil, err
	}
	switch {
	case cfg.Authorizer == nil:
		return nil, errors.New("no authorizer; want NewTokenAuthorizer or NewAppAuthorizer")
	case cfg.Concurrency < 0:
		return nil, fmt.Errorf("concurrency is %d; want at least 1, or 0 for %d", cfg.Concurrency, defaultConcurrency)
	case cfg.CallTimeout < 0:
		return nil, fmt.Errorf("call timeout is %s; want more than 0, or 0 for %s", cfg.CallTimeout, defaultCallTimeout)
	case !httpx.PrintableASCII(cfg.UserAgent):
		return nil, errors.New("user agent has a control character or one beyond ASCII; want printable ASCII")
	}
	traceHeader, err := checkTraceHeader(cfg.TraceHeader)
	if err != nil {
		return nil, err
	}
	reasons, err := checkReasons(cfg.Reasons)
	if err != nil {
		return nil, err
	}
	concurrency := cmp.Or(cfg.Concurrency, defaultConcurrency)
	transport, err := newTransport(concurrency, cfg.TLS)
	if err != nil {
		return nil, err
	}
	c := &Client{
		base:       base,
		auth:       cfg.Authorizer,
		transport:  transport,
		clock:      newServerClock(),
		rules:      withAdditions(reasons),
		slots:      make(chan struct{}, concurrency),
		timeout:    cmp.Or(cfg.CallTimeout, defaultCallTimeout),
		userAgent:  cmp.Or(cfg.UserAgent, defaultUserAgent),
		redactorOf: sentRedactors(cfg.Authorizer),

		count:       cfg.Observe,
		traceHeader: traceHeader,
	}
	if c.count == nil {
		c.count = func(Exchange) {}
	}
	if cfg.TracerProvider != nil {
		c.tracer = cfg.TracerProvider.Tracer("github.com/kooworker/kooworker/worker/koodrive")
		c.serverAttributes = serverAttributes(base)
	}
	if cfg.QuotaHeaders {
		c.askQuota = &rate.Sometimes{Interval: askQuotaEvery}
	}
	return c, nil
}

// checkBaseURL returns the URL that the calls' paths are appended to.
func checkBaseURL(raw string, insecure bool) (string, error) {
	const what = "the KooDrive URL"
	u, err := httpx.CheckURL(what, urlForm, raw, insecure)
	if err != nil {
		return "", err
	}
	switch {
	case u.User != nil:
		return "", errors.New(what + " holds a user name; want it without: credentials belong to the authorizer")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", errors.New(what + " has a query or fragment; want " + urlForm)
	}
	origin, path := u.Scheme+"://"+u.Host, strings.TrimRight(u.EscapedPath(), "/")
	if i := apiPathIn(path); i >= 0 {
		return "", fmt.Errorf("%s has %s, which is added to it; want %s", what, path[i:], origin+path[:i])
	}
	return origin + path + apiPath, nil
}

// apiPathIn returns where in a path the API's own path begins, or a part of it that
// the path ends with; -1 if nowhere.
func apiPathIn(path string) int {
	if i := strings.Index(path+"/", apiPath+"/"); i >= 0 {
		return i
	}
	for part := apiPath; part != ""; part = part[:strings.LastIndexByte(part, '/')] {
		if strings.HasSuffix(path, part) {
			return len(path) - len(part)
		}
	}
	return -1
}
