package koodrive

import (
	"context"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/http/httptrace"
	"time"

	"github.com/kooworker/kooworker/internal/httpx"
	"github.com/kooworker/kooworker/tasks"
)

// maxRetryAfter caps what a server may ask for: its mistake must not park the
// fleet for a day.
const maxRetryAfter = time.Hour

// dateFormat is X-Date's.
const dateFormat = "20060102T150405Z"

// do makes the exchange. If the server refuses the credential, do makes it once
// more with a fresh one.
func (c *Client) do(ctx context.Context, call call) Answer {
	a := c.exchange(ctx, call)
	if a.Reason != tasks.Unauthorized || a.Status == 0 {
		return a
	}
	c.auth.Renew(call.userID)
	return c.exchange(ctx, call)
}

// exchange sends one request and says what came of it.
func (c *Client) exchange(ctx context.Context, call call) Answer {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return c.failed(nil, tasks.TimedOut, httpx.CallerGaveUp(ctx))
	}
	req, err := c.request(ctx, call)
	if err != nil {
		return c.failed(nil, tasks.Invalid, "the request cannot be built from these ids")
	}
	// The credential's source has its own timeout. Only the caller's context
	// counts here.
	if err := c.auth.Authorize(ctx, req, call.userID); err != nil {
		if ctx.Err() != nil {
			return c.failed(req, tasks.TimedOut, httpx.CallerGaveUp(ctx))
		}
		return c.failed(req, credentialReason(err), err.Error())
	}
	if DeadlinePassed(ctx) {
		a := c.failed(req, tasks.TimedOut, "the caller's deadline passed before the call")
		a.NoServerReached = true
		return a
	}
	limited, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	connected := false // until then nothing of the request has left
	trace := &httptrace.ClientTrace{
		GetConn: func(string) { connected = false }, // again if an idle connection turns out to be closed
		GotConn: func(httptrace.GotConnInfo) { connected = true },
	}
	traced := httptrace.WithClientTrace(limited, trace)
	if call.trace != nil {
		traced = httptrace.WithClientTrace(traced, call.trace)
	}
	req = req.WithContext(traced)
	span := c.startSpan(ctx, req, call)
	// RoundTrip, not a Client: nothing follows a redirect, and no error text
	// holds the URL.
	sent := time.Now()
	resp, err := c.transport.RoundTrip(req)
	if call.observe != nil {
		call.observe(sent, resp, err)
	}
	if err != nil {
		reason, text := c.transportFault(ctx, limited, err)
		a := c.failed(req, reason, text)
		a.NoServerReached = !connected || refusedTLS(err)
		endSpan(span, a)
		c.count(Exchange{call.name, 0, time.Since(sent)})
		return a
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	a := c.readAnswer(ctx, req, resp, call)
	endSpan(span, a)
	c.count(Exchange{call.name, a.Status, time.Since(sent)})
	return a
}

// readAnswer reads an answer and says what it means. ctx is the caller's; that of
// the request ends earlier.
func (c *Client) readAnswer(ctx context.Context, req *http.Request, resp *http.Response, call call) Answer {
	estimate, dated := c.clock.estimate(resp.Header)
	a := Answer{Status: resp.StatusCode, RetryAfter: httpx.RetryAfter(resp.Header, time.Now(), maxRetryAfter)}
	var text string
	body, err := io.ReadAll(io.LimitReader(resp.Body, call.limit+1))
	switch {
	case err != nil:
		a.Reason, text = c.transportFault(ctx, req.Context(), err)
	case int64(len(body)) > call.limit:
		a.Reason, text = tasks.Protocol, fmt.Sprintf("the answer is larger than %d MiB", call.limit>>20)
	default:
		a.Reason, a.Code, text = c.interpret(resp, body, call)
	}
	switch a.Reason {
	case tasks.Throttled:
		a.Limit = readLimit(resp.Header, text)
	case tasks.Misrouted: // the quota of another server
	default:
		a.Limit = readLimit(resp.Header, "")
	}
	if dated {
		c.clock.learn(estimate, a.Reason == tasks.Unauthorized)
	}
	if a.Reason != tasks.OK { // the text of a success is shown nowhere
		a.Message = c.sanitize(req, text)
	}
	return a
}

// DeadlinePassed reports whether the deadline of a context has passed, even if the
// context has not ended yet. A process that was suspended may run again before its
// timers fire. On a machine that slept, the monotonic clock stood still and the wall
// clock did not, so both are checked.
func DeadlinePassed(ctx context.Context) bool {
	deadline, limited := ctx.Deadline()
	now := time.Now()
	return limited && (!now.Before(deadline) || !now.Round(0).Before(deadline.Round(0)))
}

// interpret says what a complete answer means.
func (c *Client) interpret(resp *http.Response, body []byte, call call) (reason tasks.Reason, code, text string) {
	e := readEnvelope(body)
	reason, code, text = classify(c.rules, resp.StatusCode, e), e.code, e.text
	if reason == tasks.OK {
		if err := call.read(e.data); err != nil {
			return tasks.Protocol, code, err.Error()
		}
	}
	if e.from == unknown {
		text = describe(resp, len(body))
	}
	return reason, code, text
}

// describe describes an answer that has neither envelope. It quotes nothing of it,
// since a server that sends the request back may do so in any form. Of a redirect
// it names the host.
func describe(resp *http.Response, size int) string {
	what := "nothing"
	if size > 0 {
		what = fmt.Sprintf("%d bytes", size)
		if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil {
			what += " of " + kind
		}
		if coding := resp.Header.Get("Content-Encoding"); coding != "" {
			what += ", compressed though nobody asked for that"
		}
	}
	if origin := httpx.RedirectOrigin(resp); origin != "" {
		what += ", and a redirect to " + origin
	}
	return "not KooDrive's envelope but " + what
}

// request returns a request without its credential.
func (c *Client) request(ctx context.Context, call call) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, call.method, c.base+call.path, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-User-Id", call.userID)
	req.Header.Set("X-Date", c.clock.date().Format(dateFormat))
	req.Header.Set("User-Agent", c.userAgent)
	if call.lockID != "" {
		req.Header.Set("X-Backup-Lock-Id", call.lockID)
	}
	if c.askQuota != nil { // app authorization does not sign this header
		c.askQuota.Do(func() { req.Header.Set("X-Apig-Mode", "debug") })
	}
	// Every call may be sent twice, but net/http assumes that only of some
	// methods. A key without a value tells net/http so and stays off the wire,
	// as the documentation of http.Transport says. Without it a DELETE on an
	// idle connection that the server has just closed would fail.
	req.Header["Idempotency-Key"] = []string{}
	return req, nil
}

// failed returns the answer for a call that got none.
func (c *Client) failed(req *http.Request, reason tasks.Reason, text string) Answer {
	return Answer{Reason: reason, Message: c.sanitize(req, text)}
}
