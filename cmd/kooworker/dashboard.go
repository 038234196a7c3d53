package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/term"

	"github.com/kooworker/kooworker/cmd/kooworker/internal/terminal"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/worker/audit"
	"github.com/kooworker/kooworker/worker/dashboard"
	"github.com/kooworker/kooworker/worker/dashboard/access"
)

type dashboardCmd struct {
	Addr string `env:"KOOWORKER_DASHBOARD_ADDR" default:"127.0.0.1:8090" placeholder:"HOST:PORT" help:"Listen here (${default}). Other addresses than loopback need --users-file or --trusted-proxy."`

	UsersFile string `name:"users-file" group:"access" env:"KOOWORKER_DASHBOARD_USERS_FILE" placeholder:"FILE" help:"Who may log in: lines NAME:BCRYPT-HASH for viewers, and NAME:BCRYPT-HASH:operator; hash-password prints one. It is read again when it changes."`

	TrustedProxy      []string `name:"trusted-proxy" group:"access" env:"KOOWORKER_DASHBOARD_TRUSTED_PROXY" placeholder:"ADDRESS" help:"Address of a proxy that has checked who asks, such as 10.1.2.3 or 10.1.0.0/16; may be given several times. Only its headers count."`
	ProxyUserHeader   string   `name:"proxy-user-header" group:"access" env:"KOOWORKER_DASHBOARD_PROXY_USER_HEADER" default:"X-Forwarded-User" placeholder:"NAME" help:"Header in which the proxy names the user (${default})."`
	ProxyGroupsHeader string   `name:"proxy-groups-header" group:"access" env:"KOOWORKER_DASHBOARD_PROXY_GROUPS_HEADER" default:"X-Forwarded-Groups" placeholder:"NAME" help:"Header in which the proxy names the user's groups (${default})."`
	Operators         []string `name:"operator" group:"access" env:"KOOWORKER_DASHBOARD_OPERATORS" placeholder:"USER" help:"User of the proxy who is an operator; the others are viewers. May be given several times."`
	OperatorGroups    []string `name:"operator-group" group:"access" env:"KOOWORKER_DASHBOARD_OPERATOR_GROUPS" placeholder:"GROUP" help:"Group of the proxy whose users are operators. May be given several times."`

	ExternalURL string        `name:"external-url" group:"access" env:"KOOWORKER_DASHBOARD_EXTERNAL_URL" placeholder:"URL" help:"By which browsers reach the dashboard, if a proxy is before it, such as https://ops.example.com/kooworker. Its path is the prefix of all pages, whether or not the proxy takes it off."`
	TLSCert     string        `name:"tls-cert" group:"access" env:"KOOWORKER_DASHBOARD_TLS_CERT" placeholder:"FILE" help:"Serve HTTPS with this certificate (PEM). It is read again when it changes."`
	TLSKey      string        `name:"tls-key" group:"access" env:"KOOWORKER_DASHBOARD_TLS_KEY" placeholder:"FILE" help:"The key of the certificate (PEM)."`
	Grace       time.Duration `default:"${grace}" placeholder:"DURATION" help:"A lock is stale when it has been expired for this long (${default})."`
}

const dashboardPort = "8090"

// Run implements the command.
func (c *dashboardCmd) Run(e *env) error {
	log := e.flags.Log.logger(e.stderr)
	if c.Grace <= 0 {
		return usagef("--grace: %s; want more than 0, such as 2m", c.Grace)
	}
	external, err := c.external()
	if err != nil {
		return err
	}
	door, err := c.access(external, e)
	if err != nil {
		return err
	}
	if !strings.Contains(c.Addr, ":") {
		c.Addr = net.JoinHostPort(c.Addr, dashboardPort)
	}
	if err := door.CheckAddr(c.Addr); err != nil {
		return usagef("--addr %s: %w", c.Addr, err)
	}
	certificate, err := c.certificate()
	if err != nil {
		return err
	}
	rdb, err := e.redis(bulkPool)
	if err != nil {
		return err
	}
	d, err := dashboard.New(dashboard.Config{
		Redis: rdb, Access: door, External: external, Grace: c.Grace, Version: build().Version,
		Logger: asynqx.Sampled(log.Named("dashboard")), Audit: audit.New(rdb, log),
	})
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(e.ctx, "tcp", c.Addr)
	if err != nil {
		return usagef("--addr: %w", err)
	}
	scheme := "http"
	if certificate != nil {
		listener, scheme = tls.NewListener(listener, certificate), "https"
	}
	at := fmt.Sprintf("%s://%s%s/", scheme, listener.Addr(), d.Prefix())
	fmt.Fprintln(e.stdout, "The dashboard listens on", at)
	if door.IsOpen() {
		log.Warn("the dashboard asks nobody who they are: whoever can log in to this machine is an operator; --users-file or --trusted-proxy change that")
	}
	if certificate == nil && external == nil && c.UsersFile != "" && !access.IsLoopback(c.Addr) {
		log.Warn("passwords travel in clear: --tls-cert and --tls-key change that, or a proxy with TLS and --external-url")
	}
	log.Info("dashboard listens", zap.String("url", at))
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(e.ctx)
	go func() { defer close(ended); d.Run(ctx) }()
	err = serveHTTP(ctx, listener, d)
	cancel()
	<-ended
	log.Info("dashboard stopped")
	return errors.Join(err, d.Close())
}

func (c *dashboardCmd) external() (*url.URL, error) {
	if c.ExternalURL == "" {
		return nil, nil
	}
	u, err := url.Parse(c.ExternalURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, usagef("--external-url: want a URL such as https://ops.example.com/kooworker, without user, query and fragment")
	}
	return u, nil
}

// access makes the door of the flags.
func (c *dashboardCmd) access(external *url.URL, e *env) (*access.Access, error) {
	log := e.flags.Log.build(e.stderr).Named("access")
	cfg := access.Config{Local: operator(), External: external, Logger: log, Proxy: access.Proxy{
		UserHeader: c.ProxyUserHeader, GroupsHeader: c.ProxyGroupsHeader, Operators: c.Operators, OperatorGroups: c.OperatorGroups,
	}}
	var err error
	if c.UsersFile != "" {
		if cfg.Users, err = access.OpenUsers(c.UsersFile, log); err != nil {
			return nil, usagef("--users-file: %w", err)
		}
	}
	for _, text := range c.TrustedProxy {
		prefix, err := netip.ParsePrefix(text)
		if addr, addrErr := netip.ParseAddr(text); addrErr == nil {
			prefix, err = addr.Prefix(addr.BitLen())
		}
		if err != nil {
			return nil, usagef("--trusted-proxy: %q; want an address or a network, such as 10.1.2.3 or 10.1.0.0/16", text)
		}
		if prefix.Bits() == 0 {
			return nil, usagef("--trusted-proxy: %q is every address, so that everybody could say who they are; want the address of the proxy", text)
		}
		cfg.Proxy.From = append(cfg.Proxy.From, prefix.Masked())
	}
	if len(cfg.Proxy.From) == 0 && len(c.Operators)+len(c.OperatorGroups) > 0 {
		return nil, usagef("--operator, --operator-group: only with --trusted-proxy; users of --users-file have their role there")
	}
	door, err := access.New(cfg)
	if err != nil {
		return nil, usageError(err)
	}
	return door, nil
}

// certificate returns the TLS configuration, nil if there is none.
func (c *dashboardCmd) certificate() (*tls.Config, error) {
	switch {
	case c.TLSCert == "" && c.TLSKey == "":
		return nil, nil
	case c.TLSCert == "" || c.TLSKey == "":
		return nil, usagef("--tls-cert, --tls-key: want both of them, or none")
	}
	source := &certificateFiles{cert: c.TLSCert, key: c.TLSKey}
	if _, err := source.get(nil); err != nil {
		return nil, usagef("--tls-cert, --tls-key: %w", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: source.get, NextProtos: []string{"h2", "http/1.1"}}, nil
}

type hashPasswordCmd struct {
	Name string `arg:"" help:"The user's name."`
	Role string `enum:"viewer,operator" default:"viewer" help:"What the user may do: ${enum} (${default})."`
}

// Run implements the command.
func (c *hashPasswordCmd) Run(e *env) error {
	password, err := c.password(e)
	if err != nil {
		return err
	}
	role := access.Viewer
	if c.Role == access.Operator.String() {
		role = access.Operator
	}
	line, err := access.Hash(c.Name, password, role)
	if err != nil {
		return usageError(err)
	}
	fmt.Fprintln(e.stdout, line)
	return nil
}

// password reads the password without showing it.
func (c *hashPasswordCmd) password(e *env) (string, error) {
	if file, ok := e.stdin.(*os.File); ok && terminal.IsTerminal(e.stdin) {
		fmt.Fprintf(e.stderr, "Password of %s: ", c.Name)
		password, err := term.ReadPassword(int(file.Fd()))
		fmt.Fprintln(e.stderr)
		return string(password), err
	}
	line, err := bufio.NewReader(cancelableReader{e.ctx, e.stdin}).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}
