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

// BrokerConfig describes a token broker, which is a service of the deployment that
// knows every user's token.
type BrokerConfig struct {
	// URL is called with GET <URL>?user_id=<id>; its own query is kept. The
	// broker answers {"token":…,"expires_in":<seconds>}. If it has no token for
	// the user, it answers 403, 404 or 410 with a JSON object, such as
	// {"error":"no such user"}. The URL is never shown, since it may hold a user
	// and password for basic authentication, or a key in its query.
	URL string `json:"-"`
	// Timeout is for one request to the broker. Default 10 s.
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
	brokerConnections    = 16 // idle ones kept; requests are rare and short
)

// broker caches each user's token until shortly before it expires. If many calls
// want a token at the same time, it asks for the token once.
type broker struct {
	hiddenFromFmt
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
	until time.Time // when to stop using it
}

// TokenBroker is a source that asks a broker for each user's token. It stops using a
// token before it expires: earlier by a tenth of its life, by 5 s at least and 60 s
// at most. A token without expires_in is used once. A 403, 404 or 410 with a JSON
// object means that the broker has no token for the user. Any other failure concerns
// all users, such as the 404 page of an ingress in front of a broker that is down.
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
	// The request outlives the caller that happened to be first, since others
	// wait for the same answer. Its own timeout ends it.
	detached := context.WithoutCancel(ctx)
	flight := b.flights.DoChan(userID, func() (any, error) {
		// Another request may have filled the cache since it was read above.
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

// Forget implements TokenSource. A request that is under way was sent before the
// refusal. The next caller does not wait for its answer but asks again.
func (b *broker) Forget(userID string) {
	b.cache.Remove(userID)
	b.flights.Forget(userID)
}

// Redact implements TokenSource: it replaces what is secret in the URL. It does not
// look for all cached tokens in every text. The client replaces the one that was
// sent.
func (b *broker) Redact(text string) string { return b.redact(text) }

// CloseIdleConnections closes the connections to the broker.
func (b *broker) CloseIdleConnections() { b.transport.CloseIdleConnections() }
