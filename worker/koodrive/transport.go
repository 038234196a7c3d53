package koodrive

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/kooworker/kooworker/internal/httpx"
	"github.com/kooworker/kooworker/tasks"
)

// newTransport returns a transport that keeps as many idle connections as there
// are calls in flight. With fewer, a busy client would open and close connections
// all the time.
func newTransport(connections int, base *tls.Config) (*http.Transport, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if base != nil {
		config = base.Clone()
		config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	}
	if config.MaxVersion != 0 && config.MaxVersion < config.MinVersion {
		return nil, errors.New("TLS is limited to versions before 1.2; want 1.2 or newer allowed")
	}
	return &http.Transport{
		Proxy: httpx.HideProxy(http.ProxyFromEnvironment),
		// Without this, the error would be the bare text of the status.
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("the proxy answered CONNECT with HTTP %d", resp.StatusCode)
			}
			return nil
		},
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       config,
		TLSHandshakeTimeout:   10 * time.Second,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true, // answers are small, and Accept-Encoding is not among KooDrive's headers
		MaxIdleConns:          connections,
		MaxIdleConnsPerHost:   connections,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: time.Second,
		// Over HTTP/2 all calls share a connection. If it dies silently, and nobody
		// sends pings, every call runs into its timeout for minutes.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
	}, nil
}

// transportFault returns the reason and the text of a failed exchange. ctx is the
// caller's; our timeout limits the context of the exchange.
func (c *Client) transportFault(ctx, exchange context.Context, err error) (tasks.Reason, string) {
	var timeout net.Error
	switch {
	case ctx.Err() != nil:
		return tasks.TimedOut, httpx.CallerGaveUp(ctx)
	case exchange.Err() != nil:
		return tasks.TimedOut, fmt.Sprintf("no complete answer within %s", c.timeout)
	case errors.As(err, &timeout) && timeout.Timeout():
		return tasks.TimedOut, err.Error()
	case errors.Is(err, io.ErrUnexpectedEOF):
		return tasks.Network, "the connection broke in the middle of the answer"
	case errors.Is(err, io.EOF):
		return tasks.Network, "the connection was closed without an answer"
	default:
		return tasks.Network, err.Error()
	}
}

// refusedTLS reports whether the server has ended TLS with an alert. If it wants
// another client certificate, it says so after the client takes the connection for
// established.
func refusedTLS(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}
