package koodrive

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/kooworker/kooworker/internal/httpx"
)

// BrokerConfig describes a token broker: a service of the deployment that knows
// every user's token.
type BrokerConfig struct {
	// URL is asked with GET <URL>?user_id=<id>; its own query is kept. It
	// answers {"token":…,"expires_in":<seconds>}. It may hold a user and
	// password for basic authentication, or a key in its query, and is
	// therefore never shown.
	URL string `json:"-"`
	// Timeout is for one question to the broker. Default 10 s.
	Timeout time.Duration
	// CacheSize is how many users' tokens are kept. Default 10,000.
	CacheSize int
	// InsecureHTTP allows plain HTTP to a host other than this one.
	InsecureHTTP bool
	// TLS is for a private certificate authority. Optional; its MinVersion is
	// raised to TLS 1.2.
	TLS *tls.Config `json:"-"`
}

// Format prints the configuration without the URL, which may hold secrets.
func (c BrokerConfig) Format(s fmt.State, _ rune) {
	_, _ = fmt.Fprintf(s, "{URL:%s Timeout:%s CacheSize:%d InsecureHTTP:%t}", httpx.Redacted, c.Timeout, c.CacheSize, c.InsecureHTTP)
}

const (
	defaultBrokerTimeout = 10 * time.Second
	defaultBrokerCache   = 10_000
	brokerConnections    = 16 // idle ones kept; questions are rare and short
)

// broker caches each user's token until shortly before its end, and asks for it
// once however many calls want it.
type broker struct {
	opaque
	ask       func(ctx context.Context, userID string) (*http.Request, error) // hides the URL from fmt
	redact    func(text string) string                                        // hides the secrets of the URL from fmt
	transport *http.Transport
	timeout   time.Duration
	now       func() time.Time
	cache     *lru.Cache[string, brokerToken]
	flights   singleflight.Group
}

type brokerToken struct {
	token *httpx.Secret
	until time.Time // use it until then
}

// TokenBroker is a source that asks a broker for each user's token. A token is
// used until a tenth of its life, at least 5 s and at most 60 s, before its
// end; one without expires_in is used once. The broker's 403, 404 and 410 mean
// that it has no token for the user; every other failure hits all users.
func TokenBroker(cfg BrokerConfig) (TokenSource, error) {
	u, err := httpx.CheckURL("the token broker's URL", urlForm, cfg.URL, cfg.InsecureHTTP)
	if err != nil {
		return nil, err
	}
	if u.Query().Has("user_id") {
		return nil, errors.New("the token broker's URL has user_id in its query; leave it out, it is added for each user")
	}
	if cfg.Timeout < 0 || cfg.CacheSize < 0 {
		return nil, errors.New("token broker: the timeout or the cache size is negative; want 0 for the default, or more")
	}
	cache, err := lru.New[string, brokerToken](cmp.Or(cfg.CacheSize, defaultBrokerCache))
	if err != nil {
		return nil, fmt.Errorf("token broker: %w", err)
	}
	transport, err := newTransport(brokerConnections, cfg.TLS)
	if err != nil {
		return nil, fmt.Errorf("token broker: %w", err)
	}
	return &broker{
		ask:       func(ctx context.Context, userID string) (*http.Request, error) { return brokerRequest(ctx, *u, userID) },
		redact:    httpx.NewRedactor(urlSecrets(u)...).Redact,
		transport: transport,
		timeout:   cmp.Or(cfg.Timeout, defaultBrokerTimeout),
		now:       time.Now,
		cache:     cache,
	}, nil
}

// Token implements TokenSource.
func (b *broker) Token(ctx context.Context, userID string) (string, error) {
	if token, ok := b.cached(userID); ok {
		return token.Value(), nil
	}
	// The question outlives the caller that happened to be first: others wait
	// for the same answer. Its own timeout ends it.
	detached := context.WithoutCancel(ctx)
	flight := b.flights.DoChan(userID, func() (any, error) {
		// Another flight may have landed since the look at the cache above.
		if token, ok := b.cached(userID); ok {
			return token, nil
		}
		return b.fetch(detached, userID)
	})
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case result := <-flight:
		if result.Err != nil {
			return "", result.Err
		}
		return result.Val.(*httpx.Secret).Value(), nil //nolint:forcetypeassert // a flight brings nothing else
	}
}

// cached returns the user's token if it is still to be used.
func (b *broker) cached(userID string) (*httpx.Secret, bool) {
	t, ok := b.cache.Get(userID)
	return t.token, ok && b.now().Before(t.until)
}

// Forget implements TokenSource. A question that is under way was asked before
// the refusal; the next caller does not wait for it but asks again.
func (b *broker) Forget(userID string) {
	b.cache.Remove(userID)
	b.flights.Forget(userID)
}

// Redact implements TokenSource: it replaces what is secret in the URL. Up to
// CacheSize tokens are not looked for in every text; the one that was sent is
// replaced by the client.
func (b *broker) Redact(text string) string { return b.redact(text) }

// CloseIdleConnections closes the connections to the broker.
func (b *broker) CloseIdleConnections() { b.transport.CloseIdleConnections() }
