package koodrive

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/kooworker/kooworker/internal/httpx"
)

// maxBrokerAnswer is more than any token needs.
const maxBrokerAnswer = 64 << 10

// fetch asks for one user's token and caches it.
func (b *broker) fetch(ctx context.Context, userID string) (*httpx.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	req, err := b.ask(ctx, userID)
	if err != nil {
		return nil, err
	}
	asked := b.now()
	// RoundTrip, not a Client: redirects are not followed, and no error text
	// holds the URL.
	resp, err := b.transport.RoundTrip(req)
	if err != nil {
		return nil, brokerFault(ctx, err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBrokerAnswer+1))
	switch {
	case err != nil:
		return nil, brokerFault(ctx, err)
	case noToken(resp.StatusCode) && fromBroker(body):
		return nil, fmt.Errorf("%w: the token broker answered HTTP %d", ErrNoCredential, resp.StatusCode)
	case noToken(resp.StatusCode):
		return nil, fmt.Errorf("HTTP %d without the token broker's JSON object: check the broker's URL, and what answers in its place", resp.StatusCode)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("the token broker answered HTTP %d; want 200", resp.StatusCode)
	}
	token, life, err := readBrokerAnswer(body)
	if err != nil {
		return nil, err
	}
	hidden := httpx.NewSecret(token)
	if usable := life - min(max(life/10, 5*time.Second), time.Minute); usable > 0 {
		b.cache.Add(userID, brokerToken{token: hidden, until: asked.Add(usable)})
	}
	return hidden, nil
}

// noToken reports whether a status of the broker means that it has no token for
// the user.
func noToken(status int) bool {
	return status == http.StatusForbidden || status == http.StatusNotFound || status == http.StatusGone
}

// fromBroker reports whether a body can be the broker's: an object of JSON, and not
// the gateway's. Every user gets the page of an ingress or firewall.
func fromBroker(body []byte) bool {
	var object map[string]any
	return json.Unmarshal(body, &object) == nil && object != nil && readEnvelope(body).from != gateway
}

// readBrokerAnswer's errors never quote the answer: it holds a token.
func readBrokerAnswer(body []byte) (token string, life time.Duration, err error) {
	var answer struct {
		Token     string  `json:"token"`
		ExpiresIn float64 `json:"expires_in"`
	}
	if len(body) > maxBrokerAnswer || json.Unmarshal(body, &answer) != nil {
		return "", 0, errors.New(`the token broker's answer cannot be read; want {"token":"…","expires_in":seconds}`)
	}
	if err := checkSecret(answer.Token); err != nil {
		return "", 0, fmt.Errorf("the token broker's token %w", err)
	}
	const longest = 24 * time.Hour // keeps an absurd number from overflowing
	seconds := min(max(answer.ExpiresIn, 0), longest.Seconds())
	return answer.Token, time.Duration(seconds * float64(time.Second)), nil
}

// brokerFault returns an error that does not quote what the broker sent.
func brokerFault(ctx context.Context, err error) error {
	var (
		op  *net.OpError
		crt *tls.CertificateVerificationError
	)
	switch {
	case ctx.Err() != nil:
		return errors.New("the token broker did not answer in time")
	case errors.As(err, &op):
		return fmt.Errorf("the token broker cannot be reached: %w", op)
	case errors.As(err, &crt):
		return fmt.Errorf("the token broker cannot be trusted: %w", crt)
	case errors.Is(err, httpx.ErrProxy):
		return fmt.Errorf("the token broker cannot be reached: %w", httpx.ErrProxy)
	default:
		return errors.New("the token broker gave no proper HTTP answer")
	}
}

func brokerRequest(ctx context.Context, u url.URL, userID string) (*http.Request, error) {
	user := u.User
	u.User = nil
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += "user_id=" + url.QueryEscape(userID)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return nil, errors.New("the token broker's URL cannot be used")
	}
	if user != nil {
		password, _ := user.Password()
		req.SetBasicAuth(user.Username(), password)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", defaultUserAgent)
	return req, nil
}

// urlSecrets returns the password and the values of the query.
func urlSecrets(u *url.URL) []string {
	var secrets []string
	if u.User != nil {
		password, _ := u.User.Password()
		secrets = append(secrets, password)
	}
	for _, values := range u.Query() {
		secrets = append(secrets, values...)
	}
	return secrets
}
