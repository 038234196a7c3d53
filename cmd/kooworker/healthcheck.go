package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/kooworker/kooworker/internal/httpx"
)

// healthcheckCmd is for images without a shell and without a client.
type healthcheckCmd struct {
	URL       string        `name:"url" env:"-" placeholder:"URL" help:"Ask this URL. Default: /readyz at --admin-addr."`
	AdminAddr string        `name:"admin-addr" default:"127.0.0.1:8080" placeholder:"HOST:PORT" help:"The address that the worker or scheduler listens on (${default})."`
	Timeout   time.Duration `env:"-" default:"3s" placeholder:"DURATION" help:"Wait this long for the answer (${default})."`
}

// healthReport is what the admin server answers. Package admin keeps its own type to
// itself.
type healthReport struct {
	Status string            `json:"status"`
	Checks map[string]string `json:"checks"`
}

// Run implements the command.
func (c *healthcheckCmd) Run(e *env) error {
	if c.Timeout <= 0 {
		return usagef("--timeout: %s; want more than 0", c.Timeout)
	}
	target, err := c.target()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(e.ctx, c.Timeout)
	defer cancel()
	status, report, err := askHealth(ctx, target)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: no answer within %s", target.Redacted(), c.Timeout)
	case err != nil:
		return commandError{err, exitFailed, "a worker or scheduler listens there if it runs and has --admin-addr (KOOWORKER_ADMIN_ADDR)"}
	case status != http.StatusOK:
		return fmt.Errorf("%s: status %d, %s", target.Redacted(), status, report.failing())
	}
	fmt.Fprintln(e.stdout, httpx.OneLine(report.Status))
	return nil
}

// target returns the URL to ask.
func (c *healthcheckCmd) target() (*url.URL, error) {
	if c.URL != "" {
		target, err := url.Parse(c.URL)
		if err != nil || (target.Scheme != "http" && target.Scheme != "https") || target.Host == "" {
			return nil, usagef("--url: want an address such as http://127.0.0.1:8080/readyz")
		}
		return target, nil
	}
	host, port, err := net.SplitHostPort(c.AdminAddr)
	if err != nil || port == "" {
		return nil, usagef("--admin-addr: %q is not an address; want host:port, such as 127.0.0.1:8080 or :8080", c.AdminAddr)
	}
	switch host { // nobody can connect to "every address"
	case "", "0.0.0.0":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	return &url.URL{Scheme: "http", Host: net.JoinHostPort(host, port), Path: "/readyz"}, nil
}

// askHealth asks once, without a proxy. It follows no redirect: another server's answer
// says nothing of this one.
func askHealth(ctx context.Context, target *url.URL) (status int, report healthReport, err error) {
	transport := &http.Transport{DisableKeepAlives: true}
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), http.NoBody)
	if err != nil {
		return 0, report, err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, report, err
	}
	defer func() { _ = response.Body.Close() }()
	const limit = 64 << 10
	body, err := io.ReadAll(io.LimitReader(response.Body, limit))
	if err != nil {
		return 0, report, fmt.Errorf("%s: %w", target.Redacted(), err)
	}
	if err := json.Unmarshal(body, &report); err != nil || report.Status == "" {
		return 0, report, fmt.Errorf("%s: status %d, and not the answer of kooworker", target.Redacted(), response.StatusCode)
	}
	return response.StatusCode, report, nil
}

// failing names the checks that fail, in one line.
func (r healthReport) failing() string {
	var failing []string
	for _, name := range slices.Sorted(maps.Keys(r.Checks)) {
		if r.Checks[name] != "ok" {
			failing = append(failing, name+": "+r.Checks[name])
		}
	}
	return httpx.ErrorLine(cmp.Or(strings.Join(failing, "; "), r.Status))
}
