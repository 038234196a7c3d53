package webhook

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/kooworker/kooworker/internal/httpx"
	"github.com/kooworker/kooworker/tasks"
)

// Answer is the result of one webhook.
type Answer struct {
	// Reason says what the answer means. It is never empty:
	//
	//	OK            2xx
	//	Rejected      4xx, except the three below: a repetition would not help
	//	Upstream      408, 425, 429, 5xx; 3xx, since redirects are not followed
	//	Protocol      a status that HTTP does not have
	//	TimedOut      no complete answer in time, or the caller gave up
	//	Network       no connection, no TLS, or it broke
	//	Unauthorized  the secret cannot be read or is no secret; nothing was sent
	//	Invalid       the id or the body cannot be sent; nothing was sent
	Reason tasks.Reason
	// Message says what was wrong with the receiver, the network or the secret's
	// file: one line of printable text, without secrets. "" if the reason is OK.
	Message string
	// Hint tells an operator what to do next. It is "" if there is nothing to do
	// but to wait.
	Hint string
	// RetryAfter is how long the receiver asks to wait, at most an hour; 0 if it
	// did not ask, or the reason is not Upstream.
	RetryAfter time.Duration
}

// maxRetryAfter caps what a receiver may ask for: its mistake must not put a
// webhook off for a day.
const maxRetryAfter = time.Hour

const (
	hintSecret = "no webhook can be signed: check that the file is there, that this process may read it, and that it " +
		"holds one secret and nothing else"
	hintNetwork = "no connection, or it broke: check name resolution, firewall, proxy settings (HTTPS_PROXY, NO_PROXY) and " +
		"the receiver's certificate from this very machine"
	hintTimeout = "no answer in time: the receiver should answer first and work later; if it cannot, raise the webhook's timeout"
)

// interpret says what a receiver's answer means. The secrets are those of the
// request, which the receiver may send back.
func (s *Sender) interpret(resp *http.Response, secrets ...string) Answer {
	text := readText(resp) // even of a success, so that the connection can be used again
	a := Answer{Reason: reasonOf(resp.StatusCode)}
	if a.Reason == tasks.OK {
		return a
	}
	a.Message = fmt.Sprintf("HTTP %d", resp.StatusCode)
	a.Hint = hintOf(resp.StatusCode)
	if a.Reason == tasks.Upstream {
		a.RetryAfter = httpx.RetryAfter(resp.Header, s.now(), maxRetryAfter)
	}
	before := ": "
	if httpx.IsRedirect(resp.StatusCode) {
		before, text = ", a redirect to ", httpx.RedirectOrigin(resp)
	}
	if excerpt := safeExcerpt(text, secretFragments(s.url(), secrets...)); excerpt != "" {
		a.Message += before + excerpt
	}
	return a
}

func reasonOf(status int) tasks.Reason {
	switch {
	case status >= 200 && status <= 299:
		return tasks.OK
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests:
		return tasks.Upstream
	case status >= 400 && status <= 499:
		return tasks.Rejected
	case httpx.IsRedirect(status), status >= 500 && status <= 599:
		return tasks.Upstream
	default:
		return tasks.Protocol
	}
}

func hintOf(status int) string {
	switch {
	case httpx.IsRedirect(status):
		return "redirects are not followed: set the webhook's URL to where this one leads"
	case reasonOf(status) == tasks.Upstream:
		return ""
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return "the receiver does not accept the sender: compare the secret on both sides, then the clocks, then look into its log"
	case status == http.StatusNotFound, status == http.StatusMethodNotAllowed:
		return "check the webhook's URL: nothing there takes a POST"
	case status == http.StatusProxyAuthRequired:
		return "the proxy on the way wants to know who asks: check the user and password in HTTP_PROXY"
	case status == http.StatusGone:
		return "the receiver wants no more webhooks: take the webhook out of the configuration, or give it a new URL"
	case reasonOf(status) == tasks.Rejected:
		return "the receiver refuses this webhook: look into its log"
	default:
		return "the answer makes no sense: check that the webhook's URL is that of an HTTP server, and any proxy on the way"
	}
}

// fault returns the answer for an exchange without an answer. ctx is the caller's;
// our timeout limits the context of the exchange.
func (s *Sender) fault(ctx, exchange context.Context, err error) Answer {
	var timeout net.Error
	switch {
	case ctx.Err() != nil:
		return Answer{Reason: tasks.TimedOut, Message: httpx.OneLine(httpx.CallerGaveUp(ctx))}
	case exchange.Err() != nil, errors.As(err, &timeout) && timeout.Timeout():
		return Answer{Reason: tasks.TimedOut, Message: fmt.Sprintf("no answer within %s", s.timeout), Hint: hintTimeout}
	default:
		return Answer{Reason: tasks.Network, Message: httpx.OneLine(cause(err)), Hint: hintNetwork}
	}
}

// cause returns the text of an error as far as it comes from this machine, or from
// the peer before it was sent anything. net/http's own errors quote answers.
func cause(err error) string {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Error()
	}
	if crt, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return crt.Error()
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "the receiver does not speak TLS, as its URL says"
	}
	switch {
	case errors.Is(err, httpx.ErrProxy):
		return httpx.ErrProxy.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed without a complete answer"
	default:
		return "no proper HTTP answer, from the receiver or from a proxy on the way"
	}
}
