package webhook

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"github.com/kooworker/kooworker/internal/httpx"
	"github.com/kooworker/kooworker/tasks"
)

// Sender sends webhooks to one URL. It is safe for concurrent use.
type Sender struct {
	target
	url       func() *url.URL // a function hides it from fmt
	secret    SecretSource
	transport *http.Transport
	timeout   time.Duration
	userAgent string
	now       func() time.Time
}

// maxAnswer is how many bytes of an answer's body are read. That is enough for an
// excerpt, and mostly enough to use the connection again.
const maxAnswer = 4 << 10

// Send posts a body with an id, once, and returns the result. The body is a JSON
// object without white space before it. The id is 1 to 200 letters, digits, full
// stops, underscores, colons or hyphens. Receivers tell webhooks apart by the id, so
// a second attempt must have the id of the first.
func (s *Sender) Send(ctx context.Context, id string, body []byte) Answer {
	if err := checkEvent(id, body); err != nil {
		return Answer{Reason: tasks.Invalid, Message: "the webhook's " + err.Error()}
	}
	secret, key, err := readSecret(s.secret)
	if err != nil {
		return Answer{Reason: tasks.Unauthorized, Message: httpx.OneLine(err.Error()), Hint: hintSecret}
	}
	limited, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	req, err := s.request(limited, id, body, key)
	if err != nil {
		return Answer{Reason: tasks.Invalid, Message: "the request cannot be built from the webhook's URL"}
	}
	// RoundTrip, not a Client: redirects are not followed, and no error text
	// holds the URL.
	resp, err := s.transport.RoundTrip(req)
	if err != nil {
		return s.fault(ctx, limited, err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	return s.interpret(resp, secret, string(key), req.Header.Get(headerSignature))
}

// CloseIdleConnections closes the connection that waits for the next webhook.
func (s *Sender) CloseIdleConnections() { s.transport.CloseIdleConnections() }

// request signs with the time at which it is called.
func (s *Sender) request(ctx context.Context, id string, body, key []byte) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url().String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	timestamp := strconv.FormatInt(s.now().Unix(), 10)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", s.userAgent)
	req.Header.Set(headerID, id)
	req.Header.Set(headerTimestamp, timestamp)
	req.Header.Set(headerSignature, sign(key, id, timestamp, body))
	return req, nil
}

// readText returns the beginning of an answer's body. It returns "" if the body
// breaks off, since the status has already said what matters.
func readText(resp *http.Response) string {
	if resp.StatusCode < 200 {
		return "" // the "body" of a 101 is the connection itself, which no context ends
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return ""
	}
	return string(text)
}

var idPattern = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,200}$`)

// checkEvent makes sure that a signature covers no other parts than those that were
// signed; see the package comment.
func checkEvent(id string, body []byte) error {
	if !idPattern.MatchString(id) {
		return errors.New("id is malformed; want 1 to 200 letters, digits, full stops, underscores, colons or hyphens")
	}
	if !bytes.HasPrefix(body, []byte("{")) {
		return errors.New("body is not a JSON object; want it to begin with {")
	}
	return nil
}
